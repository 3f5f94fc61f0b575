"""Whether consecutive slices are one scan: whether what differs between them numbers them, or steps and alternates.

In many sound series the numbers of acquisitions, phases and times differ harmlessly: one for each slice, or for each rotation of
a step-and-shoot scan. In others they are the only trace of two scans in one series. The decision depends on where the values lie
along the normal. If one block follows another, it also depends on whether the pixels continue as between other neighbours, and
whether the image numbers restart.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from medssl.ingest.dicom.attributes import TESTED, WEAK, Attribute
from medssl.ingest.dicom.neighbours import Neighbours, Sample, read_once
from medssl.ingest.dicom.numbering import numbering_restarts, times_used
from medssl.ingest.dicom.sets_of_slices import SAME_STEP, Sets, sets_of
from medssl.ingest.dicom.slices import Slice
from medssl.ingest.refusal import Refusal

JUMP_S = 10.0
"""Pause between one slice of a scan and the next that may separate two scans."""
FEW_FRAC = 0.2
"""Up to this share of the slices may belong to another scan whose rest is missing."""
MAX_GAP = 3
"""Up to this many steps between two blocks count as missing slices, more as two ranges."""


@dataclass(eq=False)
class Passes:
    """Slices of one grid, divided into scans."""

    pieces: list[list[Slice]]
    """Each in order along the normal."""
    differing: list[str] = field(default_factory=list)
    """Names of attributes that differ within a piece and are not proven harmless by their places: interpolation is not allowed.
    """
    warnings: list[str] = field(default_factory=list)
    """Words of `codes` for what was accepted with a remark."""


def passes_of(slices: list[Slice], min_slices: int, sample: Sample) -> Passes:
    """The scans that slices of different places belong to.

    Raises:
        Refusal: `mixed_content`: they are of several scans, and the division is uncertain.
    """
    normal, sample = slices[0].normal, read_once(sample)
    found = Passes([sorted(slices, key=lambda s: float(s.position @ normal))])
    for attribute in TESTED:
        pieces = []
        for piece in found.pieces:
            divided, joined = _divided(piece, attribute, min_slices, Neighbours(piece, sample))
            pieces += divided
            if joined and attribute.name not in found.differing:
                found.differing.append(attribute.name)
        found.pieces = pieces
    found.pieces = [scan for piece in found.pieces for scan in _by_sets(piece, min_slices, sample, found)]
    found.pieces = [scan for piece in found.pieces for scan in _by_numbers(piece, min_slices, sample)]
    return found


def _by_sets(ordered: list[Slice], min_slices: int, sample: Sample, found: Passes) -> list[list[Slice]]:
    """The scans into which attributes of little weight sort slices; uncertain ones that stay together are added to `found`."""
    adjacent = Neighbours(ordered, sample)
    depths = np.array([float(s.position @ ordered[0].normal) for s in ordered])
    judged: set[Sets] = set()
    for attribute in WEAK:
        sets = sets_of([s.attributes[attribute.name] for s in ordered], depths, attribute.rule, min_slices)
        if sets is None and attribute.rule == "words":
            _check_few(ordered, attribute, adjacent)
        if sets is None or (sets in judged and attribute.rule != "words"):
            continue
        judged.add(sets)
        values: list[Hashable] = list(sets.labels)
        if sets.in_blocks:
            steps = np.diff(depths)
            borders = [k for k in sets.borders if not _is_gap(steps, k)]
            cuts = [k for k in borders if _restarts_after(ordered, k, borders) or not adjacent.joins(k, values, sets.borders)]
            pieces = _cut(ordered, cuts)
        elif _are_scans(ordered, sets, attribute, adjacent):
            pieces = _sets_that_join(ordered, sets, attribute, sample)
        else:
            pieces = [ordered]
            if not adjacent.are_smooth(sets.count) and "alternating" not in found.warnings:
                found.warnings.append("alternating")
            if attribute.name not in found.differing:
                found.differing.append(attribute.name)
        if len(pieces) > 1:
            return [scan for piece in pieces for scan in _by_sets(piece, min_slices, sample, found)]
    return [ordered]


def _by_numbers(ordered: list[Slice], min_slices: int, sample: Sample) -> list[list[Slice]]:
    """The scans into which repeated numbers sort slices, if the pixels do not continue from one to the other."""
    depths = np.array([float(s.position @ ordered[0].normal) for s in ordered])
    sets, adjacent = sets_of(times_used(ordered), depths, "index", min_slices), Neighbours(ordered, sample)
    if sets is None:
        return [ordered]
    if sets.in_blocks:
        return _cut(ordered, [k for k in sets.borders if not adjacent.joins(k, list(sets.labels), sets.borders)])
    pieces = [[s for s, label in zip(ordered, sets.labels, strict=True) if label == n] for n in range(sets.count)]
    return [ordered] if adjacent.are_smooth(sets.count) or not _all_restart(pieces) else pieces


def _restarts_after(ordered: list[Slice], k: int, borders: list[int]) -> bool:
    """Whether the numbers of the images restart after slice `k`, one of the `borders` between blocks."""
    start = max((border for border in borders if border < k), default=-1) + 1
    stop = min((border for border in borders if border > k), default=len(ordered) - 1) + 1
    return numbering_restarts(ordered[start : k + 1], ordered[k + 1 : stop])


def _all_restart(pieces: list[list[Slice]]) -> bool:
    return all(numbering_restarts(one, other) for one, other in itertools.combinations(pieces, 2))


def _check_few(ordered: list[Slice], attribute: Attribute, adjacent: Neighbours) -> None:
    """A few slices with different words belong to another scan if their pixels do not continue."""
    values = [s.attributes[attribute.name] for s in ordered]
    few = len(values) - Counter(values).most_common(1)[0][1]
    borders = [k for k in range(len(values) - 1) if values[k] != values[k + 1]]
    if 0 < few <= FEW_FRAC * len(values) and not all(adjacent.joins(k, values, borders) for k in borders):
        raise Refusal("mixed_content", f"{few} of {len(values)} slices differ in {attribute.name}, and their values jump")


def _are_scans(ordered: list[Slice], sets: Sets, attribute: Attribute, adjacent: Neighbours) -> bool:
    """Whether interleaved sets of slices are scans: by what they state, or by their pixels and numbers too."""
    if attribute.rule == "words":
        return True
    pieces = [[s for s, label in zip(ordered, sets.labels, strict=True) if label == n] for n in range(sets.count)]
    if _all_restart(pieces) and (attribute.rule != "time" or not adjacent.are_smooth(sets.count)):
        return True
    if attribute.rule in ("amount", "index"):
        return not adjacent.are_smooth(sets.count)
    return adjacent.alternate(sets.count) and not _numbered_as_one(ordered)


def _sets_that_join(ordered: list[Slice], sets: Sets, attribute: Attribute, sample: Sample) -> list[list[Slice]]:
    """The slices of each set; for times, sets that are smooth together are one scan in packages."""
    pieces = [[k for k, label in enumerate(sets.labels) if label == n] for n in range(sets.count)]
    if attribute.rule == "time" and sets.count > 2:
        for _ in range(sets.count):
            for one, other in itertools.combinations(pieces, 2):
                both = sorted(one + other)
                if Neighbours([ordered[k] for k in both], sample).are_smooth():
                    pieces = [piece for piece in pieces if piece not in (one, other)] + [both]
                    break
    return [[ordered[k] for k in piece] for piece in sorted(pieces)]


def _numbered_as_one(ordered: list[Slice]) -> bool:
    """Whether an MR numbered its images along the stack, not separately for each set: then they are of one scan."""
    numbers = [(s.header.instance or 0, s.frame) for s in ordered]
    upwards = sorted(set(numbers))
    return ordered[0].header.modality == "MR" and numbers in (upwards, upwards[::-1])


def _divided(ordered: list[Slice], attribute: Attribute, min_slices: int, adjacent: Neighbours) -> tuple[list[list[Slice]], bool]:
    """(the pieces into which one attribute divides slices, whether slices of different values stay together by their pixels)."""
    values = [s.attributes[attribute.name] for s in ordered]
    counts = Counter(values)
    if len(counts) == 1:
        return [ordered], False
    borders = [k for k in range(len(values) - 1) if values[k] != values[k + 1]]
    in_blocks = len(borders) == len(counts) - 1
    if attribute.rule == "clock" and _is_monotone(values):
        borders = [k for k in borders if abs(values[k + 1] - values[k]) >= JUMP_S]  # type: ignore[operator]
        return _blocks(ordered, attribute, values, borders, min_slices, adjacent) if borders else ([ordered], False)
    if in_blocks and (_is_monotone(values) or min(counts.values()) >= min_slices):
        return _blocks(ordered, attribute, values, borders, min_slices, adjacent)
    if len(counts) == len(values) and attribute.rule != "clock" and ordered[0].header.modality != "CT":
        return [ordered], False  # a number for each slice, in the order in which an MR acquires them
    if min(counts.values()) >= min_slices and (attribute.rule != "clock" or _cover_each_other(values)):
        if attribute.rule == "pass" and ordered[0].header.modality == "MR" and adjacent.are_smooth():
            return [ordered], True  # slices in two interleaved packages
        return [[s for s, value in zip(ordered, values, strict=True) if value == wanted] for wanted in counts], False
    if not all(adjacent.joins(k, values, borders) for k in borders):
        raise Refusal("mixed_content", f"{attribute.name} goes up and down along the slices, and so do their values")
    return [ordered], True


def _blocks(
    ordered: list[Slice], attribute: Attribute, values: list[Hashable], borders: list[int], min_slices: int, adjacent: Neighbours
) -> tuple[list[list[Slice]], bool]:
    """Slices whose values form consecutive blocks."""
    sizes = np.diff([-1, *borders, len(values) - 1])
    if sizes.max() < min_slices and len(sizes) > 2:
        return [ordered], False
    if attribute.rule == "contrast":
        if sizes.min() < min_slices:
            raise Refusal("mixed_content", f"{int(sizes.min())} of {len(values)} slices differ in {attribute.name}")
        return _cut(ordered, borders), False
    depths = np.array([float(s.position @ ordered[0].normal) for s in ordered])
    steps = np.diff(depths)
    # a gap of a few whole steps is not a cut: the missing slices are found later
    open_borders = [k for k in borders if not _is_gap(steps, k)]
    cuts = [
        k
        for k in open_borders
        if _restarts_after(ordered, k, borders) or not (_goes_on(steps, k, borders) and adjacent.joins(k, values, borders))
    ]
    pieces = _cut(ordered, cuts)
    if min(map(len, pieces)) < min_slices:
        raise Refusal("mixed_content", f"{min(map(len, pieces))} of {len(values)} slices are of another {attribute.name}")
    return pieces, len(pieces) <= len(borders)


def _goes_on(steps: np.ndarray, k: int, borders: list[int]) -> bool:
    """Whether the step across a border equals the step beside it."""
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
    """Whether the slices of each value extend over more than half of the stack."""
    places: dict[Hashable, list[int]] = {}
    for k, value in enumerate(values):
        places.setdefault(value, []).append(k)
    return all(where[-1] - where[0] > 0.5 * len(values) for where in places.values())
