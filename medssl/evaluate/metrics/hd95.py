"""95th percentile of the Hausdorff distance."""

from __future__ import annotations

import math

import numpy as np

from medssl.core.bounds import Percentile
from medssl.evaluate.surface import Pair, surface_distances_mm

TASK = "segmentation"
BETTER = "lower"


def hd95(masks: Pair, *, percentile: Percentile = 95.0) -> float:
    """The larger of the two directed percentiles of surface distance, in mm; undefined where a mask is empty (and counted).

    Source: Huttenlocher et al., IEEE TPAMI 15:850 (1993); as MONAI's `HausdorffDistanceMetric(percentile=95)`.
    """
    if masks.empty:
        return math.nan
    return float(max(np.percentile(distances, percentile) for distances in surface_distances_mm(masks)))
