"""Brier score."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.evaluate.sample import ALL, Sample, Truth

TASK = "classification"
BETTER = "lower"


def brier(sample: Sample) -> dict[str, Float64[np.ndarray, "r"]]:
    """Mean squared distance of the probabilities to the truth.

    Summed over classes; of two classes that of the positive one alone (half the sum); of multi-label cases the mean over
    labels.

    Source: Brier, Monthly Weather Review 78:1 (1950).
    """
    return {ALL: sample.mean(brier_of_cases(sample.truth, sample.probabilities))}


def brier_of_cases(truth: Truth, probabilities: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "n"]:
    """The Brier score of each case `(n,)`."""
    distance: Float64[np.ndarray, "n"] = ((probabilities - truth.targets) ** 2).sum(axis=1)
    if truth.multilabel:
        return distance / probabilities.shape[1]
    return distance / 2 if probabilities.shape[1] == 2 else distance
