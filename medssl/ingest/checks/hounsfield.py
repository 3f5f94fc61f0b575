"""Whether CT values can be Hounsfield units."""

from __future__ import annotations

import numpy as np

from medssl.ingest.check import Finding, Series

APPLIES_TO = ("CT",)
CODES = ("implausible_hu",)


def hounsfield(series: Series, *, low_hu: float = -1100.0, high_hu: float = 700.0, most_hu: float = 65536.0) -> Finding | None:
    """The median of a CT lies between air and dense bone, and nothing is brighter than any scanner writes.

    Voxels at or below -2000 HU (the rim outside the scanned circle) are left out.
    """
    inside = series.values[series.values > -2000.0]
    if inside.size < 0.2 * series.values.size:
        return Finding(
            "implausible_hu", f"{100 - 100 * inside.size / max(series.values.size, 1):.0f} % of the voxels lie below air"
        )
    median, top = float(np.median(inside)), float(inside.max())
    if not low_hu <= median <= high_hu:
        return Finding("implausible_hu", f"the median is {median:.0f} HU")
    if top > most_hu:
        return Finding("implausible_hu", f"the brightest voxel has {top:.0f} HU")
    return None
