"""Joint 2D-3D as the stages of the released code: how a slice embedding is composed, and what each loss trains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretraining import made_batch, made_objective, made_samples, step, train_here
from test_pretrain_joint import COHORT, SMALL, random
from torch import Tensor

from medssl.nn.slice_attention import SliceLayer, VolumeEncoder


def test_a_slice_embedding_is_the_projection_of_the_means_of_its_maps_the_last_twice() -> None:
    """As the released code: 256 + 512 + 1024 + 2048 + 2048 = 5888 numbers of a ResNet-50; the last are the network's output."""
    encoder = VolumeEncoder((4, 6), width=16, layers=1, heads=2, feed_forward=16).double()
    torch.nn.init.normal_(encoder.projection.bias)
    maps, wanted = [random(3, 4, 5, 5), random(3, 6, 2, 2)], np.zeros((3, 16))
    weight, bias = (t.detach().numpy() for t in (encoder.projection.weight, encoder.projection.bias))
    for n in range(3):
        joined: list[float] = []
        for level in (maps[0], maps[1], maps[1]):
            mean = [float(level[n, c].sum()) / level[n, c].numel() for c in range(level.shape[1])]
            joined += [value / math.sqrt(sum(v * v for v in mean)) for value in mean]
        for w in range(16):
            wanted[n, w] = bias[w] + sum(weight[w, c] * joined[c] for c in range(16))
    assert np.allclose(encoder.embed(maps).detach().numpy(), wanted, atol=1e-6)


def test_the_projection_of_a_fresh_network_keeps_lengths() -> None:
    encoder = VolumeEncoder((4, 6), width=16, layers=1, heads=2, feed_forward=16)
    maps = [random(3, 4, 5, 5).float(), random(3, 6, 2, 2).float()]
    assert torch.allclose(encoder.embed(maps).norm(dim=1), torch.full((3,), math.sqrt(3)), atol=1e-5)


def test_dropout_lies_inside_the_perceptron_and_behind_each_norm() -> None:
    """As the released code: linear, GELU, dropout, linear; and x ← dropout(norm(x + …)) twice."""
    torch.manual_seed(0)
    layer = SliceLayer(64, 2, 256, 0.25)
    seen: dict[str, Tensor] = {}
    layer.attention.register_forward_pre_hook(lambda module, inputs: seen.update(first=inputs[0]))
    layer.perceptron[0].register_forward_pre_hook(lambda module, inputs: seen.update(between=inputs[0]))
    layer.perceptron[0].register_forward_hook(lambda module, inputs, output: seen.update(hidden=output))
    layer.perceptron[-1].register_forward_pre_hook(lambda module, inputs: seen.update(inside=inputs[0]))
    x = random(8, 32, 64).float()
    seen["out"] = layer(x)
    for name in ("between", "inside", "out"):
        lost = (seen[name] == 0).float().mean()
        assert abs(float(lost) - 0.25) < 0.02, name
    kept = seen["inside"] != 0
    assert torch.allclose(seen["inside"][kept], F.gelu(seen["hidden"])[kept] / 0.75, atol=1e-6)
    assert (layer.eval()(x) != 0).all()


def test_the_loss_of_hidden_slices_trains_the_transformer_alone() -> None:
    """As the second stage of the released code: embeddings are fixed, as input and as target."""
    samples = made_samples()
    objective = made_objective("joint_2d3d", 2, slices=4, **SMALL)
    batch = made_batch(samples, list(range(8)), 2)
    outputs = objective([torch.rand(8, 1, 16, 16) for _ in range(2)], batch)
    outputs["mask_error"][outputs["hidden"]].sum().backward()
    touched = {name for name, p in objective.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"hidden_slice", "predictor.weight", "volume_encoder.layers.0.attention.query.weight"} <= touched
    assert not [name for name in touched if name.startswith(("backbone.", "volume_encoder.projection."))]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_the_volume_loss_trains_the_projection_and_without_a_clustering_loss_the_backbone_stays(weights: Any) -> None:
    names = ("slice_weight", "volume_weight", "mask_weight")
    objective = made_objective("joint_2d3d", 2, slices=4, **SMALL, **dict(zip(names, weights, strict=True)))
    step(objective, made_batch(made_samples(), list(range(16)), 2), (16, 16), made_samples())
    asked = {name: p.requires_grad for name, p in objective.named_parameters()}
    touched = {name: p.grad is not None for name, p in objective.named_parameters()}
    assert asked == touched, "what trains has a gradient, on every process"
    assert asked["volume_encoder.projection.weight"] == bool(weights[1])
    assert asked["backbone.conv1.weight"] == bool(weights[0] or weights[1])
    statistics = objective.train().backbone.bn1.training
    assert statistics == bool(weights[0] or weights[1])


def volumes_clustered(**options: Any) -> tuple[Any, Any]:
    """A memory of volumes that is filled and clustered, and its objective."""
    objective = made_objective("joint_2d3d", 2, slice_weight=0.0, mask_weight=0.0, slices=4, **SMALL | options)
    memory = objective.volume_clusters
    memory.memory.copy_(F.normalize(random(*memory.memory.shape), dim=2))
    memory.known[:] = True
    objective.start_epoch(0, 0)
    return objective, memory


def test_prototypes_of_volumes_begin_an_epoch_at_its_centroids_and_train() -> None:
    """As the third stage of the released code; the gradient is written out: mean of (share − target) × embedding / T."""
    objective, memory = volumes_clustered()
    before = memory.centroids.detach().clone()
    assert torch.allclose(before.norm(dim=2), torch.ones(before.shape[:2]), atol=1e-6)
    batch, z = made_batch(made_samples(), [0, 1, 4, 5, 28, 29], 2), F.normalize(random(6, 2, 16, seed=1), dim=2)
    objective.loss({"volumes": memory(z.float())}, batch).value.backward()
    wanted, terms = np.zeros(before.shape), 0
    for row, volume in enumerate(batch.volume.tolist()):
        for view in range(2):
            for head in range(before.shape[0]):
                scores = np.exp(np.array([float(z[row, view] @ c.double()) / 0.1 for c in before[head]]))
                terms += 1
                for k, share in enumerate(scores / scores.sum()):
                    hit = float(k == int(memory.assignment[head, volume]))
                    wanted[head, k] += (share - hit) * z[row, view].numpy() / 0.1
    assert np.allclose(memory.centroids.grad.numpy(), wanted / terms, atol=1e-5)
    torch.optim.SGD(objective.parameters(), 0.1).step()
    assert not torch.allclose(memory.centroids, before, atol=1e-3)
    objective.start_epoch(0, 0)
    assert torch.equal(memory.centroids.detach(), before)


def test_prototypes_of_volumes_train_after_the_first_steps_and_in_parts_as_whole(make_plan: Any) -> None:
    options = SMALL | {"slices": 4, "slice_weight": 0.0, "mask_weight": 0.0}
    given, ends = {"batch_size": 16, "size": [64], "optimizer": "sgd", "warmup_frac": 0.0, "weight_decay": 0.0}, {}
    for name, steps, parts in (("frozen", 1, 1), ("whole", 2, 1), ("parts", 2, 2)):
        backbone = {"unet": {"features": [4, 4, 4, 4, 4, 4], "norm": "instance"}}  # batch norm would be over each part
        length = {"max_steps": steps, "accumulate": parts}
        frozen = {"freeze_prototypes_steps": 1 if steps > 1 else None}  # by default a hundredth of the run: its first step
        plan = make_plan(
            name, COHORT | {"volumes": 8}, objective={"joint_2d3d": options | frozen}, backbone=backbone, **given, **length
        )
        error, state = train_here(plan)
        assert error is None
        ends[name] = state[1]["model/volume_clusters.centroids"]
    unit_rows = ends["frozen"].norm(dim=2)
    assert torch.allclose(unit_rows, torch.ones_like(unit_rows), atol=1e-6)
    assert not torch.allclose(ends["whole"], ends["frozen"], atol=1e-6)
    assert torch.allclose(ends["whole"], ends["parts"], atol=1e-5)
