"""Coefficient of determination."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.evaluate.numbers import Measured
from medssl.evaluate.sample import ALL, ROUNDING, divide

PREDICTS = "values"
BETTER = "higher"
LIMITS = (None, 1)
TITLE = "R²"


def r2(sample: Measured) -> dict[str, Float64[np.ndarray, "..."]]:
    """1 minus the squared error over that of the mean of the true values; negative if the mean of the test cases does better.

    Undefined if all true values are equal.

    Source: Kvålseth, The American Statistician 39:279 (1985), eq. 1 (R²₁).
    """
    centred = sample.targets - sample.targets.mean()  # so that little is lost in the difference of squares
    variance = np.maximum(sample.mean(centred**2) - sample.mean(centred) ** 2, 0)
    varies = variance > ROUNDING * np.abs(centred).max(initial=0) ** 2
    return {ALL: 1 - divide(sample.mean((sample.values - sample.targets) ** 2), np.where(varies, variance, 0))}
