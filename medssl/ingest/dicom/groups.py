"""Which slices of a series may form one volume: those of one content, matrix, spacing and orientation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from medssl.ingest.dicom.slices import SAME_PLACE_MM, Slice
from medssl.ingest.refusal import Refusal


def groups_of(slices: list[Slice], min_slices: int) -> list[tuple[list[str], list[Slice]]]:
    """Slices that may form one volume: same content, matrix, spacing and orientation.

    Raises:
        Refusal: a few slices differ and would fit into (or onto the end of) the stack of the others.
    """
    if len({s.header.rescale_tags for s in slices}) > 1:
        raise Refusal("mixed_rescale", "some slices declare a rescale that others lack")
    groups: list[list[Slice]] = []
    for piece in slices:
        for group in groups:
            if not _difference(piece, group[0]):
                group.append(piece)
                break
        else:
            groups.append([piece])
    groups.sort(key=lambda g: (-len(g), g[0].file))
    main = groups[0]
    for other in groups[1:]:
        if len(_distinct_depths(other)) >= min_slices:
            continue
        if len(_distinct_depths(main)) < min_slices and len(slices) >= min_slices:
            raise Refusal(_difference(other[0], main[0]), f"{len(groups)} kinds of slices, none of them a volume")
        for candidate in groups:
            if candidate is not other and len(candidate) >= len(other) and _fits(other, candidate):
                raise Refusal(_difference(other[0], candidate[0]), f"{len(other)} of {len(slices)} slices")
    if len(groups) == 1:
        return [([], main)]
    return [
        ([f"{k}" for k in (*g[0].kind, g[0].rows, g[0].columns, *np.round(g[0].spacing, 3), *np.round(g[0].orientation, 2))], g)
        for g in groups
    ]


def _difference(one: Slice, other: Slice) -> str:
    """The code for how two slices differ, or nothing."""
    if (one.rows, one.columns) != (other.rows, other.columns):
        return "mixed_matrix"
    if np.abs(one.spacing - other.spacing).max() > 1e-3 * other.spacing.max():
        return "mixed_spacing"
    if (
        np.abs(one.orientation - other.orientation).max() > 2e-3
        or one.header.frame_of_reference != other.header.frame_of_reference
    ):
        return "mixed_orientation"
    return "mixed_content" if one.kind != other.kind else ""


def _distinct_depths(slices: Iterable[Slice]) -> np.ndarray:
    """Depths along the normal of the first slice, each place once."""
    pieces = list(slices)
    depths = np.sort([s.position @ pieces[0].normal for s in pieces])
    return depths[np.concatenate([[True], np.diff(depths) > SAME_PLACE_MM])]


def _fits(fragment: list[Slice], stack: list[Slice]) -> bool:
    """Whether a slice of the fragment lies where the stack has a hole, or one step beyond its ends."""
    normal = stack[0].normal
    depths = _distinct_depths(stack)
    if len(depths) < 2:
        return True
    step = float(np.median(np.diff(depths)))
    reach = step * (len(fragment) + 0.1)
    line = (stack[-1].position - stack[0].position) - normal * ((stack[-1].position - stack[0].position) @ normal)
    parallel = abs(fragment[0].normal @ normal) > 0.999
    for piece in fragment:
        depth = piece.position @ normal
        free = np.abs(depths - depth).min() > 0.1 * step
        near = depths[0] - reach <= depth <= depths[-1] + reach
        if not parallel:
            aside = (piece.position - stack[0].position) - normal * ((piece.position - stack[0].position) @ normal)
            near = near and float(np.linalg.norm(aside)) <= float(np.linalg.norm(line)) + step
        if free and near:
            return True
    return False
