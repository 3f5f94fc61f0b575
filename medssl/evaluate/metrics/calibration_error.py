"""Expected calibration error."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.core.bounds import Bins
from medssl.evaluate.calibration import binned
from medssl.evaluate.sample import ALL, Sample, divide

PREDICTS = "classes"
BETTER = "lower"
LIMITS = (0, 1)
TITLE = "Calibration error"
FULL_TITLE = "Calibration error ({bins} bins)"
CALIBRATION_BINS = "bins"


def calibration_error(sample: Sample, *, bins: Bins = 15) -> dict[str, Float64[np.ndarray, "r"]]:
    """Mean distance of confidence and accuracy over equal-width bins of confidence, weighted by their cases.

    It is biased upwards if bins hold few cases; the curve's counts show how few.

    Options:
        bins: how many bins of equal width confidence is divided into, here and in the calibration curve.

    Source: Guo et al., ICML 2017, arXiv 1706.04599, eq. 5.
    """
    counts, confidence, correct = binned(sample, bins)
    gap = np.abs(confidence - correct).sum(axis=1)
    return {ALL: divide(gap, counts.sum(axis=1))}
