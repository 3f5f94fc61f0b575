"""How values are stored: int16 where every value fits exactly, otherwise float32 with slope and intercept applied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Storage:
    """value = slope × stored + intercept, and how stored values are made from source values."""

    dtype: str
    slope: float
    intercept: float
    apply_rescale: bool
    """Whether the source's slope and intercept go into the stored values (else they stay beside them)."""


def storage_for(stored_range: tuple[int, int] | None, rescales: set[tuple[float, float]], *, resampled: bool) -> Storage:
    """The exact storage for source integers within `stored_range` (None: floats) under the rescales that occur.

    Integers stay integers: rescaled values are stored as int16 when they are whole and fit, source values as int16 beside
    a common slope and intercept when those fit, and float32 is left for the rest.
    """
    if resampled or stored_range is None:
        return Storage("float32", 1.0, 0.0, True)
    whole = all(slope.is_integer() and intercept.is_integer() for slope, intercept in rescales)
    if whole:
        ends = [slope * end + intercept for slope, intercept in rescales for end in stored_range]
        if INT16.min <= min(ends) and max(ends) <= INT16.max:
            return Storage("int16", 1.0, 0.0, True)
    if len(rescales) == 1 and INT16.min <= stored_range[0] and stored_range[1] <= INT16.max:
        slope, intercept = next(iter(rescales))
        return Storage("int16", slope, intercept, False)
    return Storage("float32", 1.0, 0.0, True)
