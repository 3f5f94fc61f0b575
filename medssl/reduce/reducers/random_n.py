"""A random slice in n: the control that keeps as many slices, chosen by chance."""

from __future__ import annotations

from medssl.core.bounds import Count
from medssl.core.rng import ids_to_keys, key, uniforms
from medssl.reduce.budget import lowest
from medssl.reduce.ranking import Ranks
from medssl.reduce.slices import RANK, Decision, Slices

TITLE = "slices by lot"
CONTROL = "matched"
"""Marks a control, which decides without looking at a slice; this one keeps as many of each source as the arm that it matches."""


class RandomN(Ranks):
    """A sample of the cohort without replacement: one in n, or the count asked for. The draw depends on seed and id alone.

    Options:
        n: one slice in so many is kept if no count is given.
    """

    def __init__(self, slices: Slices, *, n: Count = 10) -> None:
        super().__init__(slices)
        self.n = n

    def decide(self, count: int | None, threshold: float | None) -> Decision:
        count = -(-len(self.slices) // self.n) if count is None else count
        lots = uniforms(key(self.slices.seed, "reduce", "random_n"), ids_to_keys(list(self.slices.ids)), 1)[:, 0]
        return Decision.of(lowest(lots, count, self.slices), RANK)
