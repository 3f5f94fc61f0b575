"""Evaluate: is the difference real? Per-case table, scores with intervals, paired comparisons."""
