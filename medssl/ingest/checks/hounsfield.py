"""Whether CT values can be Hounsfield units."""

from __future__ import annotations

import numpy as np

from medssl.ingest.check import Finding, Series
from medssl.ingest.hounsfield_scale import HIGHEST_HU, LOWEST_HU, PADDING_HU

APPLIES_TO = ("CT",)
CODES = ("implausible_hu",)
ADVICE = "an offset of about -1024 may be missing, which ingest.offset_hu adds to files other than DICOM"


def hounsfield(series: Series) -> Finding | None:
    """Values of a CT lie between air and the end of the scanners' scales, their median between air and dense bone."""
    reason = why_not_hounsfield(series.values, highest=series.highest)
    return Finding("implausible_hu", reason) if reason else None


def why_not_hounsfield(
    values: np.ndarray, *, highest: float | None = None, median_hu: float = 700.0, stray_frac: float = 0.05
) -> str:
    """Why `values` cannot be Hounsfield units, or None. For every reader, after padding.

    `values`: voxels of the image, all or an even sample of them, of any shape; `highest` is the maximum of all voxels if `values`
    is
    a sample. A share `stray_frac` of them may lie below air (noise, overshoot of an interpolation, the rim between image and
    padding), and so may one single value, which is undeclared padding.

    Source: PS3.3 C.11.1.1.2 (HU); air is -1000 HU and fat, which every body has, about -100 HU by definition of the scale.
    """
    if not values.size:
        return ""
    top = float(values.max()) if highest is None else max(highest, float(values.max()))
    if not top <= HIGHEST_HU:
        above = np.unique(values[values > HIGHEST_HU])
        one = (
            "; it is the only such value: if it is padding without its sign, save it as signed 16 bits" if above.size == 1 else ""
        )
        return f"the brightest voxel has {top:.0f} HU, no scanner writes more than {HIGHEST_HU:.0f}{one}"
    below = values[values < LOWEST_HU]
    if below.size:
        found, counts = np.unique(below, return_counts=True)
        rim = int(counts[found <= PADDING_HU].max(initial=0))
        if below.size - rim > stray_frac * values.size:
            return (
                f"{100 * below.size / values.size:.0f} % of the voxels lie below air ({LOWEST_HU:.0f} HU), down to {found[0]:.0f}"
            )
        if below.size > 0.8 * values.size:
            return f"{100 * below.size / values.size:.0f} % of the voxels lie below air"
    inside = values[values >= LOWEST_HU]
    median = float(np.median(inside))
    if median > median_hu:
        return f"the median is {median:.0f} HU, more than dense bone; {ADVICE}"
    low, high = (float(v) for v in np.percentile(inside, [5, 95]))
    if inside.min() >= 0 and not below.size and low <= 200 and high >= 900:
        return f"no voxel lies below 0 HU and the brightest twentieth above {high:.0f}; {ADVICE}"
    return ""
