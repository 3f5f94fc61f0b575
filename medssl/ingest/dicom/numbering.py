"""Whether the images of a series are numbered twice: a series numbers them once (PS3.3 C.7.6.1.1.1), two scans each separately.

Many programs write new numbers, so this alone decides nothing. It counts if something else differs as well, or if the pixels do
not continue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from medssl.ingest.dicom.slices import Slice

FEWEST = 3
SHARED_FRAC = 0.5
"""Share of the smaller scan's numbers that two scans have in common."""


def numbering_restarts(one: Sequence[Slice], other: Sequence[Slice]) -> bool:
    """Whether each of two sets of slices is numbered from the beginning: no number twice within a set, most of them in both."""
    numbers, others = _numbers(one), _numbers(other)
    fewest = min(len(numbers), len(others))
    if fewest < FEWEST or len(set(numbers)) < len(numbers) or len(set(others)) < len(others):
        return False
    return None not in numbers + others and len({*numbers} & {*others}) >= SHARED_FRAC * fewest


def times_used(ordered: Sequence[Slice]) -> list[Hashable]:
    """How often the number of each slice occurred before it; all equal if numbers are missing or unique."""
    numbers = _numbers(ordered)
    if None in numbers:
        return [0] * len(numbers)
    seen: Counter[int | None] = Counter()
    used: list[Hashable] = []
    for number in numbers:
        used.append(seen[number])
        seen[number] += 1
    return used


def _numbers(slices: Sequence[Slice]) -> list[int | None]:
    """The image number of each slice; slices of one file share one, which carries no information."""
    return [s.header.instance if s.header.layout.frames == 1 and not s.header.tiles else None for s in slices]
