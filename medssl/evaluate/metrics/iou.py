"""Intersection over union."""

from __future__ import annotations

import math

from medssl.evaluate.surface import Pair

PREDICTS = "masks"
BETTER = "higher"
LIMITS = (0, 1)
TITLE = "IoU"


def iou(masks: Pair) -> float:
    """Overlap over union; undefined if both are empty, 0 if one is.

    Source: Jaccard, New Phytologist 11:37 (1912).
    """
    union = int((masks.prediction | masks.target).sum())
    return int((masks.prediction & masks.target).sum()) / union if union else math.nan
