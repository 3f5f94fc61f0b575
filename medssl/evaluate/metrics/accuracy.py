"""Accuracy."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.evaluate.sample import ALL, Sample

PREDICTS = "classes"
BETTER = "higher"
LIMITS = (0, 1)
TITLE = "Accuracy"
HEADLINE = 3


def accuracy(sample: Sample) -> dict[str, Float64[np.ndarray, "r"]]:
    """Share of cases whose class (of a multi-label case: whose every class) is correct."""
    return {ALL: sample.mean((sample.called == sample.targets).all(axis=1))}
