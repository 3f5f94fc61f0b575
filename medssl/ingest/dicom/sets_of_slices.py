"""The few sets into which a stated attribute sorts the slices, each its own stack: consecutive blocks, or interleaved stacks.

Values that vary in any other way (one per slice, up and down, in some slices) sort nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MOST_SETS = 6
FEWEST_SLICES = 3
"""A set of fewer slices may arise by chance."""
SAME_STEP = 0.05
"""Share of a step by which the steps of one scan, and those of its parts, may differ."""
LEAST_GAP_S, LEAST_GAP_FRAC = 10.0, 0.05
"""Gap between two clusters of times, or of amounts (as a share of the largest);"""
CLEAR_GAP = 2.0
"""it is this many times the widest gap within a cluster."""


@dataclass(frozen=True)
class Sets:
    """Slices of a stack, in order along the normal, sorted into sets."""

    labels: tuple[int, ...]
    """The set of each slice; sets are numbered in order of appearance."""
    in_blocks: bool
    """Whether the sets are consecutive; otherwise they are interleaved."""

    @property
    def count(self) -> int:
        """How many sets there are."""
        return max(self.labels) + 1

    @property
    def borders(self) -> list[int]:
        """Slices after which another set begins."""
        return [k for k, (one, other) in enumerate(pairwise(self.labels)) if one != other]


def sets_of(values: Sequence[Hashable], depths: np.ndarray, rule: str, min_slices: int) -> Sets | None:
    """The sets into which values sort slices at ascending `depths`, or None if they do not.

    Words and indices sort by equality, amounts by clusters; times (in seconds) by clusters, else by equality, else by runs.
    """
    if len(set(values)) == 1:
        return None
    if rule in ("words", "index"):
        return _sorted(list(values), depths, min_slices)
    found = _sorted(_clusters(values, is_time=rule == "time"), depths, min_slices)
    if found is None and rule == "time":
        found = _sorted(list(values), depths, min_slices) or _sorted(_runs(values, depths), depths, min_slices)
    return found


def _sorted(values: list[Hashable], depths: np.ndarray, min_slices: int) -> Sets | None:
    counts = Counter(values)
    if not 1 < len(counts) <= MOST_SETS or min(counts.values()) < max(FEWEST_SLICES, min_slices):
        return None
    numbers = {value: n for n, value in enumerate(counts)}
    labels = tuple(numbers[value] for value in values)
    blocks = _blocks(labels)
    alone = {n for n in numbers.values() if labels.count(n) == blocks.count(blocks[labels.index(n)])}
    if not all(_is_even(depths[[k for k, own in enumerate(labels) if own == n]]) for n in numbers.values() if n not in alone):
        return None
    return Sets(tuple(blocks), in_blocks=True) if max(blocks) else Sets(labels, in_blocks=False)


def _blocks(labels: tuple[int, ...]) -> list[int]:
    """The block of each slice: interleaved sets are one block."""
    last = {label: k for k, label in enumerate(labels)}
    blocks, end = [0], last[labels[0]]
    for k, label in enumerate(labels[1:], 1):
        blocks.append(blocks[-1] + (k > end))
        end = max(end, last[label])
    return blocks


def _is_even(depths: np.ndarray) -> bool:
    steps = np.diff(depths)
    return bool(np.abs(steps - np.median(steps)).max() <= SAME_STEP * np.median(steps))


def _clusters(values: Sequence[Hashable], *, is_time: bool) -> list[Hashable]:
    """Values → the lowest of their cluster, if gaps between clusters are clearly wider than gaps within; else empty."""
    numbers = sorted({value for value in values if isinstance(value, (int, float))})
    if len(numbers) < 2:
        return []
    gaps = np.diff(numbers)
    least = LEAST_GAP_S if is_time else LEAST_GAP_FRAC * max(abs(numbers[0]), abs(numbers[-1]))
    wide = gaps >= least
    if not 0 < wide.sum() < MOST_SETS or (not wide.all() and gaps[wide].min() < CLEAR_GAP * gaps[~wide].max()):
        return []
    starts = [numbers[0], *(numbers[k + 1] for k in np.flatnonzero(wide))]
    lowest = {number: max(start for start in starts if start <= number) for number in numbers}
    return [lowest.get(value, value) if isinstance(value, (int, float)) else value for value in values]


def _runs(values: Sequence[Hashable], depths: np.ndarray) -> list[Hashable]:
    """Times → the number of the run through the stack, up or down, in which a slice was acquired; empty without times."""
    times = np.array([value for value in values if isinstance(value, (int, float))], float)
    if len(times) < len(values):
        return []
    order = np.lexsort((depths, times)).tolist()
    runs: list[Hashable] = [0] * len(order)
    number, up = 0, 0
    for before, after in pairwise(order):
        turn = 1 if depths[after] > depths[before] else -1
        if up and turn != up:
            number, up = number + 1, 0
        else:
            up = turn
        runs[after] = number
    return runs
