"""Values on the CT scale that all readers use, and whether a file needs an offset to be on it."""

from __future__ import annotations

import numpy as np

AIR_HU = -1024.0
"""What padding becomes."""
HIGHEST_HU = 31744.0
"""The highest value of 16 signed bits with an offset of -1024. Extended scales of scanners end at 30,710."""
UNSIGNED_PADDING = 63536
"""Stored: -2000, the padding of some scanners outside their circle, in 16 bits that lost their sign. No scanner measures it."""
LOWEST_HU = -1100.0
"""Air minus its noise."""
TISSUE_HU = -200.0
"""Fat and all that is denser lie above."""
PADDING_HU = -2000.0
"""From here down a single value may be the rim outside the scanned circle, which was not declared as padding."""


def why_not_offset(values: np.ndarray, offset_hu: float) -> str:
    """Why `values`, of any shape and in HU with `offset_hu` added, do not need that offset; empty if they do.

    A file that holds HU already has its air, of -1000 or -1024, far below air then, where a single value would pass for padding;
    or if it shows no air, its tissue becomes air.
    """
    if not offset_hu or not values.size:
        return ""
    low = float(np.mean((values < LOWEST_HU) & (values > PADDING_HU + min(offset_hu, 0.0))))
    if low > 0.05:
        return f"with offset_hu {offset_hu:g} {100 * low:.0f} % of the voxels lie below air; the file may hold HU without it"
    highest = float(np.percentile(values, 99))
    if highest < TISSUE_HU:
        return f"with offset_hu {offset_hu:g} 99 % of the voxels lie below {highest:.0f} HU, so nothing is tissue"
    return ""
