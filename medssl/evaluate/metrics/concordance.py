"""Concordance correlation coefficient."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.evaluate.numbers import Measured
from medssl.evaluate.sample import ALL, divide

PREDICTS = "values"
BETTER = "higher"
LIMITS = (-1, 1)
TITLE = "Concordance correlation"


def concordance(sample: Measured) -> dict[str, Float64[np.ndarray, "..."]]:
    """Twice the covariance of true and predicted values, over the sum of their variances and of the squared shift of their means.

    It is 1 only if the values are equal: unlike a correlation, it falls if predictions are shifted or shrunk. Undefined if all
    true and all predicted values are one number.

    Source: Lin, Biometrics 45:255 (1989), eq. 2.
    """
    shift = sample.targets.mean()  # near the values, so that little is lost in the differences of squares
    one, other = sample.values - shift, sample.targets - shift
    mean_one, mean_other = sample.mean(one), sample.mean(other)
    covariance = sample.mean(one * other) - mean_one * mean_other
    squares = sample.mean(one**2) + sample.mean(other**2) - 2 * mean_one * mean_other
    return {ALL: divide(2 * covariance, squares)}
