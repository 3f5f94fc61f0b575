"""Normalised surface distance."""

from __future__ import annotations

import math

from medssl.core.bounds import Weight
from medssl.evaluate.surface import Pair, surface_distances_mm

PREDICTS = "masks"
BETTER = "higher"
LIMITS = (0, 1)
TITLE = "NSD"
FULL_TITLE = "NSD at {tolerance_mm:g} mm"
IN_WORDS = "NSD is the share of both surfaces within {tolerance_mm:g} mm of the other"
SOURCE = "Nikolov et al., J Med Internet Res 2021;23:e26151"


def nsd(masks: Pair, *, tolerance_mm: Weight = 2.0) -> float:
    """Share of both surfaces within `tolerance_mm` of the other; undefined if both are empty, 0 if one is.

    Options:
        tolerance_mm: distance in mm up to which a piece of surface counts as found.

    Source: Nikolov et al., J Med Internet Res 23:e26151 (2021), arXiv 1809.04430; as MONAI's `SurfaceDiceMetric`.
    """
    if masks.empty:
        return math.nan if masks.empty == "both" else 0.0
    of_prediction, of_target = surface_distances_mm(masks)
    near = int((of_prediction <= tolerance_mm).sum()) + int((of_target <= tolerance_mm).sum())
    return near / (len(of_prediction) + len(of_target))
