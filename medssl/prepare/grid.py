"""The grid on which a volume is prepared: spacing, the axis along which slices are cut, the position of each slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SAME_SPACING_FRAC = 1e-3
"""Spacings closer than this count as equal: the last digits of a header cause no resampling."""

TIE_FRAC = 0.01
"""Axes whose spacings differ by less are equal when the slice axis is chosen."""

AXES = {"i": 0, "j": 1, "k": 2}


def target_spacing(have_mm: Sequence[float], want_mm: Sequence[float | None] | None) -> tuple[float, ...] | None:
    """The spacing to resample to (null keeps an axis), or None if the volume already has it."""
    if want_mm is None:
        return None
    target = tuple(float(have if want is None else want) for have, want in zip(have_mm, want_mm, strict=True))
    same = all(abs(a - b) <= SAME_SPACING_FRAC * b for a, b in zip(have_mm, target, strict=True))
    return None if same else target


def slice_axis(spacing_mm: Sequence[float] | None, choice: str) -> int:
    """0, 1 or 2: the chosen axis, or for `auto` the one of the largest acquired spacing: k if among the largest, then j."""
    if choice != "auto":
        return AXES[choice]
    if spacing_mm is None:
        return 2
    largest = max(spacing_mm) * (1 - TIE_FRAC)
    return max(axis for axis in range(3) if spacing_mm[axis] >= largest)


def spacing_of(affine: np.ndarray) -> tuple[float, ...]:
    """Lengths in mm of the steps along i, j and k."""
    return tuple(float(n) for n in np.linalg.norm(affine[:3, :3], axis=0))


def positions_mm(affine: np.ndarray, axis: int, count: int) -> np.ndarray:
    """The position of each plane along `axis` on the planes' normal, in RAS+ millimetres, float32 `(count,)`."""
    first, second = (affine[:3, other] for other in range(3) if other != axis)
    normal = np.cross(first, second)
    normal = normal / np.linalg.norm(normal)
    if normal @ affine[:3, axis] < 0:
        normal = -normal
    return (normal @ affine[:3, 3] + np.arange(count) * (normal @ affine[:3, axis])).astype(np.float32)
