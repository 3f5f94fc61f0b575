"""Which slices of a series may form one volume: those with equal content, matrix, spacing and orientation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import numpy as np

from medssl.ingest.dicom.attributes import ATTRIBUTES, SPLITS, Attribute, one_for_each_file
from medssl.ingest.dicom.slices import Slice
from medssl.ingest.refusal import Refusal

TURN, STRETCH = 2e-3, 1e-3
"""Direction vectors and pixel spacings (as a share) that differ by more are two grids; if the matrix is large, even less is
enough:
"""
TURN_VOX = 0.5
"""the far corner of a slice must stay within this share of a pixel."""
ON_GRID = 0.1
"""Share of a step within which a slice lies on the grid of a stack."""


@dataclass(eq=False)
class Group:
    """Slices that agree in everything that splits a series."""

    slices: list[Slice]
    warnings: list[str] = field(default_factory=list)


def groups_of(slices: list[Slice], min_slices: int) -> list[Group]:
    """Slices that may form one volume: equal content, matrix, spacing and orientation; the largest group first.

    Raises:
        Refusal: a few slices differ and would fit into (or onto the end of) the stack of the others.
    """
    for attribute in ATTRIBUTES:
        counts = Counter(s.attributes[attribute.name] for s in slices)
        if attribute.rule == "equal" and len(counts) > 1:
            few = len(slices) - max(counts.values())
            raise Refusal(attribute.code, f"{few} of {len(slices)} slices differ from the others in {attribute.name}")
    able = [a for a in SPLITS if a.one_each]
    harmless = [a for a in able if one_for_each_file(a, _of_files(slices, a)) or _one_for_each_place(a, slices)]
    splits = [a for a in SPLITS if a not in harmless]
    warnings = [a.one_each for a in harmless]
    by_content: dict[tuple[Hashable, ...], list[Group]] = defaultdict(list)
    for piece in slices:
        alike = by_content[tuple(piece.attributes[a.name] for a in splits)]
        for group in alike:
            if not other_grid(piece, group.slices[0]):
                group.slices.append(piece)
                break
        else:
            alike.append(Group([piece], list(warnings)))
    groups = [group for alike in by_content.values() for group in alike]
    groups.sort(key=lambda g: (-len(g.slices), g.slices[0].file, g.slices[0].frame))
    _check_fragments(groups, splits, min_slices, len(slices))
    return groups


def any_belongs_to(strangers: list[Slice], group: Group) -> bool:
    """Whether a slice that is excluded from a series lies where a group lacks one, or one step beyond its ends."""
    depths = distinct_depths(group.slices)
    return len(depths) > 1 and any(_belongs_to(stranger, group.slices, depths) for stranger in strangers)


def _belongs_to(stranger: Slice, stack: list[Slice], depths: np.ndarray) -> bool:
    if other_grid(stranger, stack[0]):
        return False
    step = float(np.median(np.diff(depths)))
    depth = float(stranger.position @ stack[0].normal)
    from_grid = (depth - depths[0]) / step
    aside = stranger.position - stack[0].position
    aside -= stack[0].normal * (aside @ stack[0].normal)
    free = np.abs(depths - depth).min() > ON_GRID * step
    within = depths[0] - 1.1 * step <= depth <= depths[-1] + 1.1 * step
    return bool(free and within and abs(from_grid - round(from_grid)) <= ON_GRID and np.linalg.norm(aside) <= step)


def _of_files(slices: list[Slice], attribute: Attribute) -> list[Hashable]:
    return list({s.file: s.attributes[attribute.name] for s in slices}.values())


def _one_for_each_place(attribute: Attribute, slices: list[Slice]) -> bool:
    """Whether each place of a stack has its own value, shared by all its images: the series of a beating heart."""
    places: dict[Hashable, list[Slice]] = defaultdict(list)
    for piece in slices:
        places[piece.attributes[attribute.name]].append(piece)
    if len(places) <= 2 or len(places) == len(slices):
        return False
    if any(np.ptp([s.position for s in place], axis=0).max() > place[0].same_place_mm for place in places.values()):
        return False
    return len(distinct_depths([place[0] for place in places.values()])) == len(places)


def _check_fragments(groups: list[Group], splits: list[Attribute], min_slices: int, count: int) -> None:
    main = groups[0]
    for other in groups[1:]:
        if len(distinct_depths(other.slices)) >= min_slices:
            continue
        if len(distinct_depths(main.slices)) < min_slices and count >= min_slices:
            code, detail = _difference(other.slices[0], main.slices[0], splits)
            raise Refusal(code, f"{len(groups)} kinds of slices, none of them a volume{detail}")
        for candidate in groups:
            if candidate is not other and len(candidate.slices) >= len(other.slices) and _fits(other.slices, candidate.slices):
                code, detail = _difference(other.slices[0], candidate.slices[0], splits)
                raise Refusal(code, f"{len(other.slices)} of {count} slices{detail}")


def _difference(one: Slice, other: Slice, splits: list[Attribute]) -> tuple[str, str]:
    """The code for how two slices differ, and what they differ in."""
    code = other_grid(one, other)
    if code:
        return code, ""
    differing = [a for a in splits if one.attributes[a.name] != other.attributes[a.name]]
    return differing[0].code, f", they differ in {', '.join(a.name for a in differing)}"


def other_grid(one: Slice, other: Slice) -> str:
    """The code for how the pixel grids of two slices differ, or nothing."""
    if (one.rows, one.columns) != (other.rows, other.columns):
        return "mixed_matrix"
    if np.abs(one.spacing - other.spacing).max() > other.spacing.max() * min(STRETCH, TURN_VOX / max(one.rows, one.columns)):
        return "mixed_spacing"
    if np.abs(one.orientation - other.orientation).max() > min(TURN, TURN_VOX / max(one.rows, one.columns)):
        return "mixed_orientation"
    return ""


def distinct_depths(slices: Iterable[Slice]) -> np.ndarray:
    """Depths along the normal of the first slice, each place once."""
    pieces = list(slices)
    depths = np.sort([s.position @ pieces[0].normal for s in pieces])
    return depths[np.concatenate([[True], np.diff(depths) > pieces[0].same_place_mm])]


def _fits(fragment: list[Slice], stack: list[Slice]) -> bool:
    """Whether a slice of the fragment lies where the stack has a hole, or one step beyond its ends."""
    normal = stack[0].normal
    depths = distinct_depths(stack)
    if len(depths) < 2:
        return True
    step = float(np.median(np.diff(depths)))
    reach = step * (len(fragment) + 0.1)
    line = (stack[-1].position - stack[0].position) - normal * ((stack[-1].position - stack[0].position) @ normal)
    parallel = abs(fragment[0].normal @ normal) > 0.999
    for piece in fragment:
        depth = piece.position @ normal
        free = np.abs(depths - depth).min() > ON_GRID * step
        within = depths[0] - reach <= depth <= depths[-1] + reach
        if not parallel:
            aside = (piece.position - stack[0].position) - normal * ((piece.position - stack[0].position) @ normal)
            within = within and float(np.linalg.norm(aside)) <= float(np.linalg.norm(line)) + step
        if free and within:
            return True
    return False
