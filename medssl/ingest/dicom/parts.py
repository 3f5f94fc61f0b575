"""Parts of what may be one scan: slices that differ in patient, study, number or content, but continue each other.

Series are always divided by these. A volume that continues in another part gets a warning with the difference, and a gap that
another part fills is not a lost slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.ingest.dicom.attributes import SPLITS, Attribute
from medssl.ingest.dicom.groups import ON_GRID, Group, distinct_depths, other_grid
from medssl.ingest.dicom.sets_of_slices import SAME_STEP
from medssl.ingest.dicom.slices import Slice
from medssl.ingest.refusal import Refusal

WORDS = {"mixed_patient": "part_by_patient", "mixed_series": "part_by_series", "mixed_frame": "part_by_frame"}
"""Codes of attributes that divide a series → the warnings,"""
CONTRASTS = frozenset(["modality", "tube voltage", "energy", "kernel", "echo number", "echo time", "b-value"])
"""`part_by_contrast` for these attributes, and `part_by_type` for all others."""


def words_of_part(slices: list[Slice], positions: np.ndarray, groups: list[Group]) -> list[str]:
    """The warnings of a volume of `slices` at `positions` `(n, 3)` mm that continues in another of `groups` at the same step."""
    found: set[str] = set()
    for group in groups:
        differing = _differing(slices[0], group)
        if differing and not other_grid(slices[0], group.slices[0]) and _goes_on(positions, slices[0], group.slices):
            found |= {WORDS.get(a.code, "part_by_contrast" if a.name in CONTRASTS else "part_by_type") for a in differing}
    return sorted(found)


def reason_of_gap(group: Group, groups: list[Group]) -> Refusal | None:
    """Why slices of a group are missing, if slices of others are at all their places."""
    depths = distinct_depths(group.slices)
    if len(depths) < 3:
        return None
    step = float(np.median(np.diff(depths)))
    numbers = np.round((depths - depths[0]) / step).astype(int)
    missing = set(range(int(numbers[-1]) + 1)) - set(numbers.tolist())
    lacking = set(missing)
    said: list[Attribute] = []
    for other in groups:
        differing = _differing(group.slices[0], other)
        if other is group or not differing or other_grid(other.slices[0], group.slices[0]):
            continue
        places = (np.array([s.position @ group.slices[0].normal for s in other.slices]) - depths[0]) / step
        whole = {round(place) for place in places if abs(place - round(place)) <= ON_GRID}
        if whole & lacking:
            lacking -= whole
            said += [attribute for attribute in differing if attribute not in said]
    if lacking or not said:
        return None
    names = ", ".join(attribute.name for attribute in said)
    detail = f"{len(missing)} slices lie in the gaps between {len(depths)} others and differ from them in {names}"
    return Refusal(said[0].code, detail)


def _goes_on(positions: np.ndarray, piece: Slice, others: Sequence[Slice]) -> bool:
    """Whether a slice of others, at the same step, is the next one beyond an end of a volume, and none is within it."""
    depths, own = distinct_depths(others), positions @ piece.normal
    if len(own) < 2:
        return False
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    step_mm = float(own[-1] - own[0]) / (len(own) - 1)
    within = (depths > own[0] - (1 - SAME_STEP) * step_mm) & (depths < own[-1] + (1 - SAME_STEP) * step_mm)
    if within.any() or (len(depths) > 1 and abs(float(np.median(np.diff(depths))) - step_mm) > SAME_STEP * step_mm):
        return False
    ends = np.stack([positions[0] - step, positions[-1] + step])
    limit = max(SAME_STEP * step_mm, piece.same_place_mm)
    return any(bool((np.linalg.norm(ends - other.position, axis=1) <= limit).any()) for other in others)


def _differing(piece: Slice, group: Group) -> list[Attribute]:
    """What divides a slice from a group; attributes that differ in every file divide nothing."""
    other = group.slices[0].attributes
    return [a for a in SPLITS if piece.attributes[a.name] != other[a.name] and not (a.one_each and a.one_each in group.warnings)]
