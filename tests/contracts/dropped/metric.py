"""How often the right class is not the least likely."""

from __future__ import annotations

import numpy as np

from medssl.evaluate.sample import ALL, Floats, Sample

PREDICTS = "classes"
TITLE = "not last"
BETTER = "higher"


def not_last(sample: Sample) -> dict[str, Floats]:
    """Share of the cases whose class is not the least likely."""
    lowest = sample.probabilities.min(axis=1, keepdims=True)
    right = np.where(sample.truth.targets, sample.probabilities > lowest, False).any(axis=1)
    return {ALL: sample.mean(right.astype(np.float64))}
