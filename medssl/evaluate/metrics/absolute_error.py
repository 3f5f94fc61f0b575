"""Mean absolute error."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.evaluate.numbers import Measured
from medssl.evaluate.sample import ALL

PREDICTS = "values"
BETTER = "lower"
LIMITS = (0, None)
TITLE = "Mean absolute error"
HEADLINE = 4
RANKS_CASES = True
IN_UNITS = True


def absolute_error(sample: Measured) -> dict[str, Float64[np.ndarray, "..."]]:
    """Mean distance of the predicted values from the true ones, in the unit of the labels."""
    return {ALL: sample.mean(np.abs(sample.values - sample.targets))}
