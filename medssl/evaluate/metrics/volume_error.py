"""Relative volume error."""

from __future__ import annotations

import math

from medssl.evaluate.surface import Pair

PREDICTS = "masks"
BETTER = "lower"
LIMITS = (0, None)
TITLE = "Volume error"


def volume_error(masks: Pair) -> float:
    """Absolute difference of the volumes over the true volume; undefined if the true mask is empty."""
    true = int(masks.target.sum())
    return abs(int(masks.prediction.sum()) - true) / true if true else math.nan
