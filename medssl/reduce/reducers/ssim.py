"""Structural similarity of slices, on the windowed values."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

from medssl.core.bounds import Count
from medssl.core.errors import StudyError
from medssl.reduce.pairs import Pairs
from medssl.reduce.slice_cache import SliceCache
from medssl.reduce.slices import Slices
from medssl.reduce.structure import Moments, fits, moments, ssim

TITLE = "structural similarity"
MAX_DISTANCE = 2.0
"""The largest possible distance; a larger threshold is refused before any work."""


class Ssim(Pairs):
    """1 − SSIM of two slices; the distance is 2 for slices of different shape, or too small for the window unless equal.

    Options:
        memory_mb: for caching slices while they are compared, in MiB; others are read again.
    """

    default_threshold = 0.3
    max_threshold = MAX_DISTANCE
    costly = True
    needs = ("plane",)

    def __init__(self, slices: Slices, *, memory_mb: Count = 1024) -> None:
        super().__init__(slices)
        self._cached = SliceCache(self._moments, lambda cached: cached.nbytes, memory_mb)

    def distances(self, anchor: int, others: Int64[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
        mine = self._cached(int(anchor))
        return np.array([self._distance(mine, self._cached(int(other))) for other in others], np.float32)

    def _moments(self, index: int) -> Moments:
        read = self.slices.plane
        if read is None:
            raise StudyError("reducer 'ssim' compares pixels, and none were given.")
        unit = read(index)
        if not fits(unit.shape):
            nothing = np.empty(0, np.float32)
            return Moments(unit.astype(np.float32), nothing, nothing, nothing)
        return moments(unit)

    def _distance(self, a: Moments, b: Moments) -> float:
        if a.centred.shape != b.centred.shape:
            return 2.0
        if not fits(a.centred.shape):
            return 0.0 if np.array_equal(a.centred, b.centred) else 2.0
        return max(1.0 - ssim(a, b), 0.0)
