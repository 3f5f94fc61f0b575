"""Sensitivity at a fixed specificity."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.core.bounds import Fraction
from medssl.evaluate.sample import Sample, divide

PREDICTS = "classes"
BETTER = "higher"
LIMITS = (0, 1)
TITLE = "Sensitivity at fixed specificity"
FULL_TITLE = "Sensitivity at specificity {specificity:g}"


def sensitivity_at_specificity(sample: Sample, *, specificity: Fraction = 0.9) -> dict[str, Float64[np.ndarray, "r"]]:
    """Highest sensitivity among the thresholds whose specificity is at least `specificity`, and its mean over classes.

    The threshold comes from the test cases and is chosen again in each replicate: a point of the ROC curve, not the performance
    of a threshold fixed beforehand.

    Options:
        specificity: the smallest specificity that a threshold must have.
    """
    values = {}
    for index in sample.scored:
        hits, false_alarms = sample.curve(index)
        allowed = false_alarms <= (1 - specificity) * false_alarms[:, -1:] + 1e-9
        values[index] = divide(np.where(allowed, hits, 0).max(axis=1), hits[:, -1])
        values[index][false_alarms[:, -1] == 0] = np.nan
    return sample.by_class(values)
