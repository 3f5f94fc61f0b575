"""Whether planes of an image have the values of a mask: a few, all whole numbers, the lowest 0."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def mask_values(
    planes: Iterable[np.ndarray],
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    named_as_mask: bool = False,
    most: int = 64,
    coarse: int = 7,
) -> str | None:
    """In what way planes `(i, j)` of stored values resemble a mask, in words; None if they do not.

    Images have hundreds of values: the noise of a scanner alone has dozens. An empty mask, which holds only 0, counts if its name
    marks it as one.

    `most`: values that the planes of a mask may have; every `coarse`-th voxel of a plane is enough to recognise an image.
    """
    planes = list(planes)
    found: set[float] = set()
    for step in (coarse, 1):
        for plane in planes:
            found |= set(np.unique(plane[::step, ::step]).tolist())
            if len(found) > most:
                return None
    values = np.array(sorted(found)) * slope + intercept
    if len(values) < (1 if named_as_mask else 2) or values[0] != 0 or (values != np.rint(values)).any():
        return None
    return f"{len(values)} values from {values[0]:g} to {values[-1]:g}" if len(values) > 1 else "the value 0 alone"
