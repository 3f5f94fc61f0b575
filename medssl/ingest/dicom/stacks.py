"""From the headers of one series to its volumes: each slice ends in exactly one stack or one refusal."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medssl.ingest.dicom.fewer_slices import fewer_than, without_stumps
from medssl.ingest.dicom.groups import Group, any_belongs_to, groups_of
from medssl.ingest.dicom.header import Header
from medssl.ingest.dicom.neighbours import Sample
from medssl.ingest.dicom.parts import reason_of_gap, words_of_part
from medssl.ingest.dicom.passes import Passes, passes_of
from medssl.ingest.dicom.slices import Slice, slices_of_file
from medssl.ingest.dicom.steps import ASIDE_VOX, line_of, on_two_grids
from medssl.ingest.dicom.time_points import Digest, time_points, without_copies
from medssl.ingest.refusal import Refusal

if TYPE_CHECKING:
    from medssl.ingest.options import IngestOptions  # these imports are too large for a reading process

FEW_FRAC = 0.2
"""A time point that lacks up to this share of another's slices may have lost them; one that lacks more is another range."""


@dataclass(eq=False)
class Stack:
    """Slices of one volume in order along the normal, and the processing they need."""

    slices: list[Slice]
    positions: np.ndarray
    step: np.ndarray
    """(3,) LPS mm from slice to slice, of an even stack."""
    tilt_deg: float = 0.0
    straighten: bool = False
    time_index: int | None = None
    alone: bool = True
    """Whether the series holds only this volume."""
    warnings: list[str] = field(default_factory=list)

    @property
    def instances(self) -> list[str]:
        """Names of its images, sorted, independent of the files' location: no other volume of the series has any of them."""
        return sorted(f"{s.header.sop or _described(s)}/{s.frame}/{s.tile}" for s in self.slices)


@dataclass(eq=False)
class Refused:
    """Files of a series that form no volume, and why."""

    code: str
    sentence: str
    files: set[int]
    said: dict[int, str] = field(default_factory=dict)
    """file → its own sentence, if that differs from the common one"""


def stacks_of_series(
    files: list[tuple[int, Header]], options: IngestOptions, digest: Digest, sample: Sample
) -> tuple[list[Stack], list[Refused]]:
    """Volumes and refusals of one series.

    `digest` hashes a slice's pixels and is called only for collisions; `sample` gives thinned-out values and is called only for
    slices that may be of two scans.
    """
    others: dict[str, dict[int, Header]] = defaultdict(dict)
    for number, header in files:
        others[_role(header.role, options)][number] = header
    images = others.pop("image", {})
    everything, slices = set(images), []
    refused: list[Refused] = []
    said: dict[int, str] = {}
    try:
        check_parts(list(images.values()))
        planes, unusable = _planes_of_files(images)
        if unusable:
            refusal, said = _refusal_of_some(unusable, set(images))
            raise refusal
        for number, header in images.items():
            for piece in planes[number]:
                kind = _role(piece.source.role, options)
                if kind == "image":
                    slices.append(piece)
                else:
                    others[kind][number] = header
        refused += [Refused(role, Refusal(role).sentence, set(found)) for role, found in sorted(others.items())]
        if not slices:
            return [], refused
        everything = {piece.file for piece in slices}
        slices, copies = without_copies(slices, digest)
        if copies:
            refused.append(
                Refused("duplicate", Refusal("duplicate").sentence, {s.file for s in copies} - {s.file for s in slices})
            )
            everything -= refused[-1].files
        _check_declared(slices)
        groups = groups_of(slices, options.min_slices)
        _check_strangers(others, groups)
    except Refusal as refusal:
        for role, strangers in others.items():
            if not any(r.code == role for r in refused):
                refused.append(Refused(role, Refusal(role).sentence, set(strangers)))
        return [], [*refused, Refused(refusal.code, refusal.sentence, everything, said)]
    points: list[list[Stack]] = []
    for group in groups:
        try:
            found, copies, stumps = _stacks_of_group(group, options, digest, sample)
        except Refusal as refusal:
            reason = (reason_of_gap(group, groups) if refusal.code in ("missing_slice", "uneven") else None) or refusal
            refused.append(Refused(reason.code, reason.sentence, {s.file for s in group.slices}))
            continue
        points += found
        refused += stumps
        if copies:
            refused.append(Refused("duplicate", Refusal("duplicate").sentence, {s.file for s in copies}))
    _mark_fewer(points)
    stacks = [stack for point in points for stack in point]
    for stack in stacks:
        stack.warnings = [*stack.warnings, *words_of_part(stack.slices, stack.positions, groups)]
        stack.alone = len(groups) == len(stacks) == 1
    return stacks, refused


def _planes_of_files(images: dict[int, Header]) -> tuple[dict[int, list[Slice]], dict[int, Refusal]]:
    """The planes of each file, and the refusal of files without usable ones."""
    planes: dict[int, list[Slice]] = {}
    unusable: dict[int, Refusal] = {}
    for number, header in images.items():
        try:
            planes[number] = slices_of_file(number, header)
        except Refusal as refusal:
            unusable[number] = refusal
    return planes, unusable


def _refusal_of_some(unusable: dict[int, Refusal], everything: set[int]) -> tuple[Refusal, dict[int, str]]:
    """(the most common refusal of unusable files with their number, the sentence for each file)."""
    first = next(iter(unusable.values()))
    counts = Counter(refusal.code for refusal in unusable.values())
    code, count = max(counts.items(), key=lambda e: (e[1], e[0] == first.code))
    one = next(refusal for refusal in unusable.values() if refusal.code == code)
    if count == len(everything):
        return one, {}
    where = f"{count} of {len(everything)} files" + (f", {one.detail}" if one.detail else "")
    others = "".join(f"; {other}: {n} files" for other, n in sorted(counts.items()) if other != code)
    whole = Refusal(code, where + others)
    of_others = Refusal(code, f"{where}{others}; this one is sound").sentence
    return whole, {n: unusable[n].sentence if n in unusable else of_others for n in everything}


def _described(piece: Slice) -> str:
    """A key for a slice without an instance identifier, from everything that it states."""
    return repr((piece.position.tolist(), piece.header.instance, piece.source.content_s, sorted(piece.attributes.items())))


def _role(role: str, options: IngestOptions) -> str:
    accepted = (role == "derived" and options.derived == "accept") or (role == "burned_in" and options.burned_in == "accept")
    return "image" if accepted else role


def check_parts(headers: list[Header]) -> None:
    """Require every part of an object that was written in parts.

    Source: PS3.3 C.7.6.16.2.2.4, Concatenation UID, In-concatenation Number and Total Number.

    Raises:
        Refusal: `incomplete`.
    """
    parts: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for header in headers:
        if header.part is not None:
            parts[header.concatenation].add(header.part)
    for found in parts.values():
        total = max(count for _, count in found)
        here = {number for number, _ in found}
        if not total:
            raise Refusal("incomplete", f"{len(here)} parts of an object that does not say how many it has")
        if here != set(range(1, total + 1)):
            raise Refusal("incomplete", f"{len(here)} of {total} parts of an object are here")


def _check_declared(slices: list[Slice]) -> None:
    declared = max((s.header.declared_images or 0 for s in slices), default=0)
    if declared > len(slices):
        raise Refusal("incomplete", f"{len(slices)} of {declared} declared images are here")


def _check_strangers(others: dict[str, dict[int, Header]], groups: list[Group]) -> None:
    """Refuse series in which an excluded slice would leave an unreported hole or a missing end."""
    for role, found in sorted(others.items()):
        strangers: list[Slice] = []
        for number, header in found.items():
            try:
                strangers += slices_of_file(number, header)
            except Refusal:
                continue  # without a position it cannot be compared
        if strangers and any(any_belongs_to(strangers, group) for group in groups):
            raise Refusal("mixed_content", f"files marked {role} lie where a slice of the others is missing, or at their end")


def _stacks_of_group(
    group: Group, options: IngestOptions, digest: Digest, sample: Sample
) -> tuple[list[list[Stack]], list[Slice], list[Refused]]:
    """The volumes of each time point, dropped copies, and time points of too few slices."""
    points, copies = time_points(group.slices, digest)
    points, stumps = without_stumps(points, options.min_slices)
    divided = [passes_of(slices, options.min_slices, sample) for slices in points]
    stacks = [[_stack(piece, options, passes) for piece in passes.pieces] for passes in divided]
    if len(stacks) > 1:
        _number_times(stacks)
    for passes, point in zip(divided, stacks, strict=True):
        for stack in point:
            stack.warnings = [*group.warnings, *passes.warnings]
    refused = [Refused("incomplete", Refusal("incomplete", words).sentence, {s.file for s in stump}) for stump, words in stumps]
    return stacks, copies, refused


def _mark_fewer(points: list[list[Stack]]) -> None:
    """Add a warning to volumes of a time point that covers only some places of another, of any group."""
    slices = [[s for stack in point for s in stack.slices] for point in points]
    for point, own in zip(points, slices, strict=True):
        if fewer_than(own, slices):
            for stack in point:
                stack.warnings = [*stack.warnings, "fewer_slices"]


def _number_times(points: list[list[Stack]]) -> None:
    """Number the time points that have the same slices.

    Raises:
        Refusal: `incomplete`: one lacks a few slices of another.
    """
    if len({len(stacks) for stacks in points}) > 1:
        return
    for parts in zip(*points, strict=True):
        fullest = max(parts, key=lambda stack: len(stack.slices))
        limit = ASIDE_VOX * min(fullest.slices[0].pixel_mm, float(np.linalg.norm(fullest.step)))
        same = [
            len(stack.slices) == len(fullest.slices) and np.abs(stack.positions - fullest.positions).max() <= limit
            for stack in parts
        ]
        if all(same):
            for index, stack in enumerate(parts):
                stack.time_index = index
            continue
        for index, stack in enumerate(parts):
            lacking = len(fullest.slices) - len(stack.slices)
            if not same[index] and lacking <= max(2, FEW_FRAC * len(fullest.slices)) and _on_grid(stack, fullest):
                numbers = f"time point {index + 1} has {len(stack.slices)} slices, another {len(fullest.slices)} or other ones"
                raise Refusal("incomplete", numbers)


def _on_grid(stack: Stack, other: Stack) -> bool:
    """Whether the slices of one stack lie on the places of the other's grid."""
    step = float(np.linalg.norm(other.step))
    places = (stack.positions - other.positions[0]) @ other.step / step**2
    return bool(np.abs(places - np.round(places)).max() <= 2 * ASIDE_VOX)


def _stack(slices: list[Slice], options: IngestOptions, passes: Passes) -> Stack:
    """One volume, ordered along its normal, if its geometry is sound.

    Raises:
        Refusal: too few slices, a gap, uneven steps, a tilt or a shift that the options do not allow.
    """
    normal = slices[0].normal
    ordered = sorted(slices, key=lambda s: float(s.position @ normal))
    positions = np.stack([s.position for s in ordered])
    if len(ordered) < options.min_slices:
        raise Refusal("few_slices", f"{len(ordered)} of at least {options.min_slices}")
    if len(ordered) == 1:
        thickness = slices[0].header.slice_thickness
        return Stack(ordered, positions, normal * (thickness if thickness and 0 < thickness < 100 else 1.0))
    one_scan = not passes.differing
    hint = "; `uneven: resample` interpolates"
    if one_scan and on_two_grids(positions @ normal):
        hint = "; they lie on two even grids, as the slices of two scans do. Look at them: only one scan may be interpolated"
    elif not one_scan:
        hint = f"; they differ in {', '.join(passes.differing)} and may be of several scans, so they are not interpolated"
    line = line_of(positions, normal, ordered[0].pixel_mm, interpolate=one_scan and options.uneven == "resample", hint=hint)
    if line.tilt_deg and options.tilt == "refuse":
        raise Refusal("tilted", f"{line.tilt_deg:.2f} degrees")
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    return Stack(ordered, positions, step, line.tilt_deg, straighten=bool(line.tilt_deg) or not line.even)
