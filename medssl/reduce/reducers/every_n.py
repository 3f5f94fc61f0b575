"""Every n-th slice: the control that thins a volume without looking at it."""

from __future__ import annotations

import numpy as np

from medssl.core.bounds import Count
from medssl.reduce.budget import evenly
from medssl.reduce.ranking import Ranks
from medssl.reduce.slices import RANK, Decision, Slices

TITLE = "every n-th slice"
CONTROL = "matched"
"""Marks a control, which decides without looking at a slice; this one keeps as many of each source as the arm that it matches."""


class EveryN(Ranks):
    """Slices 0, n, 2n … of each volume (of a set of images in its order); with a count, spaced evenly over all.

    Options:
        n: one slice in so many is kept if no count is given.
    """

    def __init__(self, slices: Slices, *, n: Count = 10) -> None:
        super().__init__(slices)
        self.n = n

    def decide(self, count: int | None, threshold: float | None) -> Decision:
        if count is not None:
            return Decision.of(evenly(len(self.slices), count), RANK)
        first = np.searchsorted(self.slices.volume, self.slices.volume, side="left")
        return Decision.of((np.arange(len(self.slices)) - first) % self.n == 0, RANK)
