"""What a check looks at, and what it may find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Series:
    """A decoded volume as the checks see it."""

    modality: str
    values: np.ndarray
    """Every eighth voxel of each slice in value units, float32 `(i, j, k)` in the source's slice order; CT only."""
    planes: list[np.ndarray]
    """A few whole slices `(i, j)`, spread over the volume."""
    rescales: list[tuple[float, float]]
    """(slope, intercept) of each slice."""


@dataclass(frozen=True)
class Finding:
    """A code and the numbers behind it; `refuse` is false for a warning."""

    code: str
    detail: str
    refuse: bool = True
