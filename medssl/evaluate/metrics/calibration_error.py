"""Expected calibration error and the curve behind it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.core.bounds import Bins
from medssl.evaluate.sample import ALL, Sample, divide

TASK = "classification"
BETTER = "lower"


def calibration_error(sample: Sample, *, bins: Bins = 15) -> dict[str, Float64[np.ndarray, "r"]]:
    """Mean distance of confidence and accuracy over equal-width bins of confidence, weighted by their cases.

    It is biased upwards where bins hold few cases; the curve's counts show how few.

    Source: Guo et al., ICML 2017, arXiv 1706.04599, eq. 5.
    """
    counts, confidence, correct = binned(sample, bins)
    gap = np.abs(confidence - correct).sum(axis=1)
    return {ALL: divide(gap, counts.sum(axis=1))}


def binned(
    sample: Sample, bins: int
) -> tuple[Float64[np.ndarray, "r {bins}"], Float64[np.ndarray, "r {bins}"], Float64[np.ndarray, "r {bins}"]]:
    """Weighted sums `(r, bins)` of calls, of their confidence and of the right ones, by confidence in (0, 1/bins], …

    A case is one call (its most probable class); a multi-label case is one for each label, at max(p, 1 − p).
    """
    right = sample.called == sample.targets
    if sample.truth.multilabel:
        calls = [(np.maximum(p, 1 - p), ok) for p, ok in zip(sample.probabilities.T, right.T, strict=True)]
    else:
        calls = [(sample.probabilities.max(axis=1), right.all(axis=1))]
    sums = [np.zeros((len(sample.weights), bins)) for _ in range(3)]
    for confidence, correct in calls:
        member = np.eye(bins)[np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)]
        for total, values in zip(sums, (1.0, confidence[:, None], correct[:, None]), strict=True):
            total += sample.weights @ (member * values)
    return sums[0], sums[1], sums[2]
