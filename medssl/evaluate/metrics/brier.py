"""Brier score."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.evaluate.sample import ALL, Sample

PREDICTS = "classes"
BETTER = "lower"
LIMITS = (0, None)
TITLE = "Brier score"
RANKS_CASES = True


def brier(sample: Sample) -> dict[str, Float64[np.ndarray, "r"]]:
    """Mean squared distance of the probabilities from the truth.

    Summed over classes; for two classes only that of the positive one (half the sum); for multi-label cases the mean over labels.

    Source: Brier, Monthly Weather Review 78:1 (1950).
    """
    distance: Float64[np.ndarray, "..."] = ((sample.probabilities - sample.targets) ** 2).sum(axis=1)
    num_classes = len(sample.truth.classes)
    if sample.truth.multilabel:
        return {ALL: sample.mean(distance / num_classes)}
    return {ALL: sample.mean(distance / 2 if num_classes == 2 else distance)}
