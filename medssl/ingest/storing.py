"""How values are stored: int16 if every value fits exactly, otherwise float32 with slope and intercept applied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medssl.ingest.refusal import Refusal
from medssl.volume.intensity import ordinary_range

INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Storage:
    """value = slope × stored + intercept, and the conversion from source values to stored values."""

    dtype: str
    slope: float
    intercept: float
    apply_rescale: bool
    """Whether the source's slope and intercept are applied to the stored values (otherwise they are kept separately)."""


def storage_for(stored_range: tuple[int, int] | None, rescales: set[tuple[float, float]], *, resampled: bool) -> Storage:
    """The exact storage for source integers within `stored_range` (None: floats) under the rescales that occur.

    Integers stay integers: rescaled values are stored as int16 if they are whole and fit, source values as int16 with a common
    slope
    and intercept if those fit, and float32 is used for the rest.
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


def stored_exactly(values: np.ndarray, slope: float, intercept: float, *, resampled: bool) -> tuple[Storage, np.ndarray]:
    """The exact storage of any source values `(i, j, k)` under one rescale, and the values in it.

    Raises:
        Refusal: single precision cannot represent them.
    """
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if values.dtype.itemsize > 2 and max(abs(low), abs(high)) > 1 << 24:
            raise Refusal("unsupported_pixels", f"integers up to {max(abs(low), abs(high))}, more than float32 holds")
        storage = storage_for((low, high), {(slope, intercept)}, resampled=resampled)
        if storage.dtype == "int16" and storage.apply_rescale:
            return storage, (values.astype(np.int64) * int(slope) + int(intercept)).astype(np.int16)
        if storage.dtype == "int16":
            return storage, values.astype(np.int16)
        return storage, (values * slope + intercept).astype(np.float32)
    scaled = values * slope + intercept if (slope, intercept) != (1.0, 0.0) else values
    with np.errstate(over="ignore"):
        single = scaled.astype(np.float32)
    if not np.isfinite(single).all():
        raise Refusal("nonfinite", "values beyond the range of float32")
    if not resampled and single.min() >= -32768 and single.max() <= 32767 and (single == np.rint(single)).all():
        return Storage("int16", 1.0, 0.0, True), single.astype(np.int16)
    return Storage("float32", 1.0, 0.0, True), single


def has_outliers(values: np.ndarray) -> bool:
    """Whether a few values lie so far beyond all others that 16-bit arrays exclude them (`ordinary_range`).

    Raises:
        Refusal: `wide_range`: even without them, 16 bits do not distinguish the others.
    """
    ordinary = ordinary_range(values)
    if not ordinary.distinguished:
        raise Refusal(
            "wide_range", f"values from {values.min():.3g} to {values.max():.3g}, half of them closer together than a step"
        )
    return ordinary.outliers


def without_outliers(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Values with outliers replaced by the nearest ordinary value, and whether there were any: before interpolation.

    Raises:
        Refusal: as `has_outliers`.
    """
    if not has_outliers(values):
        return values, False
    ordinary = ordinary_range(values)
    return values.clip(ordinary.low, ordinary.high), True
