"""Whether the pixels of consecutive slices continue each other as in one scan: across a border, and from slice to slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import numpy as np

from medssl.ingest.dicom.slices import Slice

Sample = Callable[[Slice], np.ndarray]
"""A thinned-out slice in value units."""
JOIN = 2.0
"""Neighbours across a border may differ this many times as much as neighbours within a block,"""
USUAL_BORDER = 1.5
"""or this many times as much as at most borders of the series (each rotation of a scan starts slightly off)."""
SMOOTH, ALTERNATING, MOST_READ = 0.95, 1.2, 12


def read_once(sample: Sample) -> Sample:
    """The same samples, each read once."""
    kept: dict[int, np.ndarray] = {}

    def once(piece: Slice) -> np.ndarray:
        if id(piece) not in kept:
            kept[id(piece)] = sample(piece)
        return kept[id(piece)]

    return once


class Neighbours:
    """How much the pixels of a stack's slices differ; each slice is read once, and only on demand."""

    def __init__(self, ordered: list[Slice], sample: Sample) -> None:
        """`sample` may be called for a slice again."""
        self._ordered, self._sample = ordered, sample

    def difference(self, one: int, other: int) -> float:
        """Mean absolute difference between two slices."""
        return float(np.abs(self._pixels(one) - self._pixels(other)).mean())

    def joins(self, border: int, values: list[Hashable], borders: list[int]) -> bool:
        """Whether slices `border` and `border + 1`, of different values, differ no more than neighbours of one value do."""
        across = self.difference(border, border + 1)
        tiny = 1e-3 * float(self._pixels(border).std())
        last = len(values) - 1
        inner = [k for k in range(max(border - 4, 0), min(border + 5, last)) if k not in borders]
        inner.sort(key=lambda k: abs(k - border))
        if not inner:
            return self.are_smooth()
        if across <= JOIN * max(self.difference(k, k + 1) for k in inner[:4]) + tiny:
            return True
        if len(borders) < 3:
            return False
        usual = float(np.median([self.difference(k, k + 1) for k in borders[:: -(-len(borders) // MOST_READ)]]))
        return across <= USUAL_BORDER * usual + tiny

    def are_smooth(self, num_sets: int = 2) -> bool:
        """Whether neighbours are more similar than slices at distance `num_sets`: interleaved scans are not."""
        return self._roughness(num_sets) <= SMOOTH

    def alternate(self, num_sets: int) -> bool:
        """Whether neighbours are clearly less similar than slices at distance `num_sets`: more than noise explains."""
        return self._roughness(num_sets) > ALTERNATING

    def _roughness(self, lag: int) -> float:
        """The difference of neighbouring slices, relative to that of slices at distance `lag`."""
        starts = range(len(self._ordered) - lag)[:: -(-len(self._ordered) // MOST_READ)]
        close_ones = sum(self.difference(k + n, k + n + 1) for k in starts for n in range(lag)) / lag
        distant_ones = sum(self.difference(k, k + lag) for k in starts)
        return close_ones / distant_ones if distant_ones else math.inf if close_ones else 0.0

    def _pixels(self, k: int) -> np.ndarray:
        return self._sample(self._ordered[k])
