"""Networks and what trains them: backbones, views, loading, optimisers, the training loop, its state, health, weights."""
