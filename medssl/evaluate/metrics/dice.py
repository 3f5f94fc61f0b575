"""Dice coefficient."""

from __future__ import annotations

import math

from medssl.evaluate.surface import Pair

PREDICTS = "masks"
BETTER = "higher"
LIMITS = (0, 1)
TITLE = "Dice"
HEADLINE = 2
RANKS_CASES = True


def dice(masks: Pair) -> float:
    """Twice the overlap over the sum of the volumes; undefined if both are empty, 0 if one is.

    Source: Dice, Ecology 26:297 (1945).
    """
    total = int(masks.prediction.sum()) + int(masks.target.sum())
    return 2 * int((masks.prediction & masks.target).sum()) / total if total else math.nan
