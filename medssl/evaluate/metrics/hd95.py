"""95th percentile of the Hausdorff distance."""

from __future__ import annotations

import math

import numpy as np

from medssl.core.bounds import Percentile
from medssl.evaluate.surface import Pair, surface_distances_mm

PREDICTS = "masks"
BETTER = "lower"
LIMITS = (0, None)
TITLE = "HD95 (mm)"
FULL_TITLE = "HD{percentile:g} (mm)"
IN_WORDS = (
    "HD{percentile:g} is the larger of the two directed {percentile:g}th percentiles of the distances between the surfaces, in mm"
)
SOURCE = "Huttenlocher et al., IEEE TPAMI 1993;15:850"


def hd95(masks: Pair, *, percentile: Percentile = 95.0) -> float:
    """The larger of the two directed percentiles of surface distance, in mm; undefined if a mask is empty (which is counted).

    Options:
        percentile: of the surface distances of each direction; 100 is the Hausdorff distance itself.

    Source: Huttenlocher et al., IEEE TPAMI 15:850 (1993); as MONAI's `HausdorffDistanceMetric(percentile=95)`.
    """
    if masks.empty:
        return math.nan
    return float(max(np.percentile(distances, percentile) for distances in surface_distances_mm(masks)))
