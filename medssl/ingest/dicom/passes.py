"""Whether slices in a row are one scan: what differs between them numbers them, or steps and alternates.

Numbers of acquisitions, phases and times differ harmlessly in many sound series (one for each slice, or for each rotation of a
step-and-shoot scan), and in others they are the only trace of two scans in one series. What decides is where the values stand
along the normal, and, where one block follows another, whether the pixels go on as they do between other neighbours.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np

from medssl.ingest.dicom.attributes import TESTED, Attribute
from medssl.ingest.dicom.slices import Slice
from medssl.ingest.refusal import Refusal

Sample = Callable[[Slice], np.ndarray]
"""A thinned-out slice in value units."""
JOIN = 2.0
"""Neighbours across a border may differ this many times as much as neighbours beside it,"""
USUAL_BORDER = 1.5
"""or this many times as much as at most borders of the series (each rotation of a scan begins a little off)."""
SMOOTH, MOST_READ = 0.95, 12
SAME_STEP = 0.05
JUMP_S = 10.0
"""Between one slice of a scan and the next; so long a pause may be that between two scans."""
MAX_GAP = 3
"""Up to so many steps between two blocks are missing slices, more are two ranges."""


@dataclass(eq=False)
class Passes:
    """Slices of one grid, divided into scans."""

    pieces: list[list[Slice]]
    """Each in order along the normal."""
    differing: list[str] = field(default_factory=list)
    """Names of what differs within a piece and was not found harmless by where it stands: no place for interpolation."""


def passes_of(slices: list[Slice], min_slices: int, sample: Sample) -> Passes:
    """The scans that slices of different places belong to.

    Raises:
        Refusal: `mixed_content`: they are of several scans, and which belong together is not certain.
    """
    normal = slices[0].normal
    found = Passes([sorted(slices, key=lambda s: float(s.position @ normal))])
    for attribute in TESTED:
        pieces = []
        for piece in found.pieces:
            divided, joined = _divided(piece, attribute, min_slices, Neighbours(piece, sample))
            pieces += divided
            if joined and attribute.name not in found.differing:
                found.differing.append(attribute.name)
        found.pieces = pieces
    return found


class Neighbours:
    """How much the pixels of slices of a stack differ; each slice is read once, and only where it is asked for."""

    def __init__(self, ordered: list[Slice], sample: Sample) -> None:
        self._ordered, self._sample = ordered, sample
        self._kept: dict[int, np.ndarray] = {}

    def apart(self, one: int, other: int) -> float:
        """Mean absolute difference between two slices."""
        return float(np.abs(self._pixels(one) - self._pixels(other)).mean())

    def joins(self, border: int, values: list[Hashable], borders: list[int]) -> bool:
        """Whether slices `border` and `border + 1`, of different values, differ no more than neighbours of one value do."""
        across = self.apart(border, border + 1)
        tiny = 1e-3 * float(self._pixels(border).std())
        last = len(values) - 1
        inner = [k for k in range(max(border - 4, 0), min(border + 5, last)) if k not in borders]
        inner.sort(key=lambda k: abs(k - border))
        if not inner:
            return self.are_smooth()
        if across <= JOIN * max(self.apart(k, k + 1) for k in inner[:4]) + tiny:
            return True
        if len(borders) < 3:
            return False
        usual = float(np.median([self.apart(k, k + 1) for k in borders[:: -(-len(borders) // MOST_READ)]]))
        return across <= USUAL_BORDER * usual + tiny

    def are_smooth(self) -> bool:
        """Whether slices next to each other are more alike than slices two apart: two scans, one between the other, are not."""
        middles = range(1, len(self._ordered) - 1)[:: -(-len(self._ordered) // MOST_READ)]
        near = sum(self.apart(k - 1, k) + self.apart(k, k + 1) for k in middles) / 2
        return near <= SMOOTH * sum(self.apart(k - 1, k + 1) for k in middles)

    def _pixels(self, k: int) -> np.ndarray:
        if k not in self._kept:
            self._kept[k] = self._sample(self._ordered[k])
        return self._kept[k]


def _divided(ordered: list[Slice], attribute: Attribute, min_slices: int, near: Neighbours) -> tuple[list[list[Slice]], bool]:
    """(the pieces that one attribute divides slices into, whether slices of different values stay together by their pixels)."""
    values = [s.attributes[attribute.name] for s in ordered]
    counts = Counter(values)
    if len(counts) == 1:
        return [ordered], False
    borders = [k for k in range(len(values) - 1) if values[k] != values[k + 1]]
    in_blocks = len(borders) == len(counts) - 1
    if attribute.rule == "clock" and _is_monotone(values):
        borders = [k for k in borders if abs(values[k + 1] - values[k]) >= JUMP_S]  # type: ignore[operator]
        return _blocks(ordered, attribute, values, borders, min_slices, near) if borders else ([ordered], False)
    if in_blocks and (_is_monotone(values) or min(counts.values()) >= min_slices):
        return _blocks(ordered, attribute, values, borders, min_slices, near)
    if len(counts) == len(values) and attribute.rule != "clock" and ordered[0].header.modality != "CT":
        return [ordered], False  # a number for each slice, in the order in which an MR acquires them
    if min(counts.values()) >= min_slices and (attribute.rule != "clock" or _cover_each_other(values)):
        if attribute.rule == "pass" and ordered[0].header.modality == "MR" and near.are_smooth():
            return [ordered], True  # slices in two packages, the one between the other
        return [[s for s, value in zip(ordered, values, strict=True) if value == wanted] for wanted in counts], False
    if not all(near.joins(k, values, borders) for k in borders):
        raise Refusal("mixed_content", f"{attribute.name} goes up and down along the slices, and so do their values")
    return [ordered], True


def _blocks(
    ordered: list[Slice], attribute: Attribute, values: list[Hashable], borders: list[int], min_slices: int, near: Neighbours
) -> tuple[list[list[Slice]], bool]:
    """Slices whose values come one after the other."""
    sizes = np.diff([-1, *borders, len(values) - 1])
    if sizes.max() < min_slices and len(sizes) > 2:
        return [ordered], False
    if attribute.rule == "contrast":
        if sizes.min() < min_slices:
            raise Refusal("mixed_content", f"{int(sizes.min())} of {len(values)} slices differ in {attribute.name}")
        return _cut(ordered, borders), False
    depths = np.array([float(s.position @ ordered[0].normal) for s in ordered])
    steps = np.diff(depths)
    # a gap of a few whole steps is no cut: the missing slices are found later
    open_borders = [k for k in borders if not _is_gap(steps, k)]
    cuts = [k for k in open_borders if not (_goes_on(steps, k, borders) and near.joins(k, values, borders))]
    pieces = _cut(ordered, cuts)
    if min(map(len, pieces)) < min_slices:
        raise Refusal("mixed_content", f"{min(map(len, pieces))} of {len(values)} slices are of another {attribute.name}")
    return pieces, len(pieces) <= len(borders)


def _goes_on(steps: np.ndarray, k: int, borders: list[int]) -> bool:
    """Whether the step across a border is the step beside it."""
    inner = [n for n in range(len(steps)) if n not in borders]
    inner.sort(key=lambda n: abs(n - k))
    return not inner or min(abs(steps[k] - steps[n]) for n in inner[:2]) <= SAME_STEP * steps[k]


def _is_gap(steps: np.ndarray, k: int) -> bool:
    times = steps[k] / float(np.median(steps))
    return round(times) in range(2, MAX_GAP + 1) and abs(times - round(times)) <= SAME_STEP


def _cut(ordered: list[Slice], cuts: list[int]) -> list[list[Slice]]:
    ends = [0, *(k + 1 for k in cuts), len(ordered)]
    return [ordered[start:stop] for start, stop in itertools.pairwise(ends)]


def _is_monotone(values: list[Hashable]) -> bool:
    if not all(isinstance(value, (int, float)) for value in values):
        return False
    steps = np.diff(np.array(values, float))
    return bool((steps >= 0).all() or (steps <= 0).all())


def _cover_each_other(values: list[Hashable]) -> bool:
    """Whether the slices of each value run through more than half of the stack."""
    places: dict[Hashable, list[int]] = {}
    for k, value in enumerate(values):
        places.setdefault(value, []).append(k)
    return all(where[-1] - where[0] > 0.5 * len(values) for where in places.values())
