"""The first slices of every volume."""

from __future__ import annotations

import numpy as np

from medssl.core.bounds import Count
from medssl.reduce.ranking import Ranks
from medssl.reduce.slices import RANK, Decision, Slices

TITLE = "first slices"


class FirstSlices(Ranks):
    """Slices 0 to n − 1 of each volume, or the first `count` of the cohort.

    Options:
        n: slices of each volume to keep.
    """

    def __init__(self, slices: Slices, *, n: Count = 6) -> None:
        super().__init__(slices)
        self.n = n

    def decide(self, count: int | None, threshold: float | None) -> Decision:
        if count is not None:
            return Decision.of(np.arange(len(self.slices)) < count, RANK)
        first = np.searchsorted(self.slices.volume, self.slices.volume, side="left")
        return Decision.of(np.arange(len(self.slices)) - first < self.n, RANK)
