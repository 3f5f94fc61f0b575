"""Volumes of one series of which one has fewer slices than another, all at places of the other.

A time point, an echo or a b-value that lost images, or whose scan was stopped, looks like a complete scan of a smaller range, and
may be one. It is accepted with a warning. If too few slices remain for a volume, the others are still accepted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.ingest.dicom.slices import Slice
from medssl.ingest.dicom.steps import ASIDE_VOX

TURN = 1e-3
"""Normals that differ by more point in different directions."""


def fewer_than(slices: Sequence[Slice], others: Sequence[Sequence[Slice]]) -> int:
    """How many slices the fullest of `others` has that covers all places of `slices`, and more; 0 if none does."""
    return max((len(other) for other in others if len(other) > len(slices) and _lies_within(slices, other)), default=0)


def without_stumps(points: list[list[Slice]], min_slices: int) -> tuple[list[list[Slice]], list[tuple[list[Slice], str]]]:
    """(time points, those of fewer than `min_slices` that are cut short, each with the numbers of slices in words)."""
    kept, stumps = [], []
    for number, point in enumerate(points, 1):
        fullest = fewer_than(point, points) if len(point) < min_slices else 0
        if fullest >= min_slices:
            stumps.append((point, f"time point {number} has {len(point)} of the {fullest} slices of another"))
        else:
            kept.append(point)
    return kept, stumps


def _lies_within(slices: Sequence[Slice], other: Sequence[Slice]) -> bool:
    """Whether the other has a slice at the place of each slice."""
    if np.abs(slices[0].normal - other[0].normal).max() > TURN:
        return False
    limit = ASIDE_VOX * slices[0].pixel_mm
    depths = np.array([s.position @ other[0].normal for s in other])
    order = np.argsort(depths)
    places = np.stack([other[k].position for k in order])
    for piece in slices:
        next_place = int(np.searchsorted(depths[order], piece.position @ other[0].normal))
        around = places[max(next_place - 1, 0) : next_place + 1]
        if np.abs(around - piece.position).max(axis=1).min() > limit:
            return False
    return True
