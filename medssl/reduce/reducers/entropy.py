"""Entropy of slices: drops those with the least, or those that hardly change along the volume."""

from __future__ import annotations

from typing import Literal

import numpy as np

from medssl.core.errors import StudyError
from medssl.reduce.budget import exactly, lowest, nearest_threshold
from medssl.reduce.ranking import Ranks
from medssl.reduce.slices import DUPLICATE, NO_TWIN, RANK, Decision, Slices

TITLE = "entropy"


class Entropy(Ranks):
    """`form: low` drops slices below a threshold in bits (default 1). `form: change` keeps a slice if its entropy differs by more
    than the threshold (default 0.1 bit) from that of the slice kept last in its volume.

    Options:
        form: which slices are dropped; `low` those with little entropy, `change` those with nearly the entropy of the slice
            kept last.
    """

    needs = ("entropy",)

    def __init__(self, slices: Slices, *, form: Literal["low", "change"] = "low") -> None:
        super().__init__(slices)
        if "entropy" not in slices.columns:
            raise StudyError("reducer 'entropy': the descriptors hold no entropy. Describe the cohort again.")
        self.form = form
        self.entropy = slices.columns["entropy"]

    def decide(self, count: int | None, threshold: float | None) -> Decision:
        if self.form == "low":
            if count is not None:
                return Decision.of(lowest(-self.entropy, count, self.slices), RANK)
            return Decision.of(self.entropy >= (1.0 if threshold is None else threshold), RANK)
        if count is None:
            return self._changes(0.1 if threshold is None else threshold)
        highest = float(np.ptp(self.entropy)) if len(self.entropy) else 0.0
        decision, _ = nearest_threshold(self._changes, count, highest=highest, whole_steps=False)
        return exactly(decision, count, self.slices)

    def _changes(self, threshold: float) -> Decision:
        twin = np.full(len(self.slices), NO_TWIN)
        distance = np.full(len(self.slices), np.nan, np.float32)
        for members in self.slices.runs():
            last = members[0]
            for index in members[1:]:
                step = abs(self.entropy[index] - self.entropy[last])
                if step > threshold:
                    last = index
                else:
                    twin[index], distance[index] = last, step
        return Decision.of(twin == NO_TWIN, DUPLICATE, twin, distance)
