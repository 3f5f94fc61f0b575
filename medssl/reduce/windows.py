"""From stored numbers to comparable ones: 8-bit grey for hashes, 0..1 for similarity, codes for entropy.

A slice image is the plane transposed to [row, col], not flipped. For a volume in RAS+ the rows run to anterior and the
columns along the patient's right-to-left axis as stored; for an image of a set it is the picture itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64, Num, UInt8

from medssl.artefacts.volumes import Volume
from medssl.volume.intensity import values_of, windowed

GREY_LEVELS = 256


@dataclass(frozen=True)
class Window:
    """`low`..`high` in value units, where value = slope × stored + intercept; `per_slice` takes each slice's own range instead.

    `per_slice` follows the authors of "Less is More"; one metal implant then changes every grey value of its slice.
    """

    low: float
    high: float
    slope: float = 1.0
    intercept: float = 0.0
    per_slice: bool = False

    @classmethod
    def of(cls, volume: Volume) -> Window:
        """The window of a volume's first channel."""
        return cls(volume.low[0], volume.high[0], volume.slope, volume.intercept)

    def unit(self, stored: Num[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """The network's input, in 0..1, as float64, any shape; per slice: 0 for a constant slice."""
        values = np.asarray(values_of(stored.astype(np.float64), self.slope, self.intercept))
        low, high = (float(values.min()), float(values.max())) if self.per_slice else (self.low, self.high)
        return np.asarray(windowed(values, low, high)) if high > low else np.zeros(stored.shape)

    def grey(self, stored: Num[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
        """The slice in 8 bits: floor(255 × unit + 1/2), so halves round up. Same shape, uint8."""
        if self._tabled(stored):
            return np.take(self._grey_table, stored.view(np.uint16))
        return np.floor(self.unit(stored) * 255.0 + 0.5).astype(np.uint8)

    def counts(self, stored: Num[np.ndarray, "..."]) -> Int64[np.ndarray, "levels"]:
        """How often each distinct windowed value occurs, (levels,) in ascending order, zeros included."""
        if stored.dtype == np.int16:
            first, last = (int(stored.min()), int(stored.max())) if self.per_slice else self._stored_range
            # the difference of two int16 wraps, and is correct again when read as uint16
            codes = np.clip(stored, first, last).view(np.uint16) - np.uint16(first & 0xFFFF)
            return np.bincount(codes.reshape(-1), minlength=last - first + 1)
        return np.unique(self.unit(stored), return_counts=True)[1]

    def _tabled(self, stored: np.ndarray) -> bool:
        return stored.dtype == np.int16 and not self.per_slice

    @cached_property
    def _grey_table(self) -> np.ndarray:
        """8-bit grey of every 16-bit pattern, in the order of its unsigned reading."""
        return np.floor(self.unit(np.arange(65536, dtype=np.uint16).view(np.int16)) * 255.0 + 0.5).astype(np.uint8)

    @cached_property
    def _stored_range(self) -> tuple[int, int]:
        """Stored numbers from which the window clips (inside int16)."""
        ends = sorted((edge - self.intercept) / self.slope for edge in (self.low, self.high))
        first, last = int(np.clip(np.floor(ends[0]), -32768, 32767)), int(np.clip(np.ceil(ends[1]), -32768, 32767))
        return first, max(last, first)
