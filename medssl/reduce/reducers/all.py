"""Keep everything: the baseline that every reduction is compared with."""

from __future__ import annotations

import numpy as np

from medssl.reduce.ranking import Ranks
from medssl.reduce.slices import RANK, Decision

TITLE = "all slices"
CONTROL = "whole"
"""Marks a control, which decides without looking at a slice; this one keeps every slice."""


class All(Ranks):
    """Every slice is kept, whatever the budget."""

    def decide(self, count: int | None, threshold: float | None) -> Decision:
        return Decision.of(np.ones(len(self.slices), bool), RANK)
