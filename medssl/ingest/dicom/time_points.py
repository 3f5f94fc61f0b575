"""Slices at one place: copies of one image, or the time points of a series."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import numpy as np

from medssl.ingest.dicom.attributes import WEAK
from medssl.ingest.dicom.slices import Slice
from medssl.ingest.refusal import Refusal

_MARKS = (
    *("temporal_position", "acquisition", "phase", "trigger_time", "acquisition_s", "content_s"),
    *("inversion_time", "flip_angle", "contrast"),
)
"""Fields of a frame that may distinguish time points, the most reliable first."""
Digest = Callable[[Slice], str]


def without_copies(slices: list[Slice], digest: Digest) -> tuple[list[Slice], list[Slice]]:
    """One of each instance; the same instance with other pixels is a conflict."""
    first: dict[tuple[str, int, int], Slice] = {}
    copies = []
    for piece in slices:
        # files without an instance identifier are distinguished by their place, like any others
        key = (piece.header.sop or f"file {piece.file}", piece.frame, piece.tile)
        if key not in first:
            first[key] = piece
        elif digest(piece) == digest(first[key]) and np.allclose(piece.position, first[key].position, atol=piece.same_place_mm):
            copies.append(piece)
        else:
            raise Refusal("conflict", "one instance identifier, two different images")
    return list(first.values()), copies


def time_points(group: list[Slice], digest: Digest) -> tuple[list[list[Slice]], list[Slice]]:
    """The slices of each time point, and identical copies that were dropped.

    Raises:
        Refusal: several different images lie at one place and nothing distinguishes them.
    """
    places = _by_place(group)
    num_points = max(len(p) for p in places)
    if num_points == 1:
        return [group], []
    if len(places) == 1 and len(group) > 2:
        raise Refusal("not_a_volume", f"{len(group)} images at one position")
    points = _split(places, num_points)
    if points:
        return points, []
    kept: list[Slice] = []
    copies: list[Slice] = []
    for place in places:
        seen: set[str] = set()
        for piece in sorted(place, key=lambda s: s.file):
            mark = digest(piece) if len(place) > 1 else ""
            (copies if mark in seen and mark else kept).append(piece)
            seen.add(mark)
    if copies:
        places = _by_place(kept)
        num_points = max(len(p) for p in places)
        if num_points == 1:
            return [kept], copies
        points = _split(places, num_points)
        if points:
            return points, copies
    crowded = sum(len(p) > 1 for p in places)
    raise Refusal("conflict", f"{crowded} of {len(places)} positions hold up to {num_points} different images")


def _by_place(group: list[Slice]) -> list[list[Slice]]:
    normal = group[0].normal
    places: list[list[Slice]] = []
    last = -math.inf
    for depth, _, piece in sorted(((float(s.position @ normal), n, s) for n, s in enumerate(group)), key=lambda e: e[:2]):
        if depth - last > group[0].same_place_mm:
            places.append([])
        places[-1].append(piece)
        last = depth
    return places


def _split(places: list[list[Slice]], num_points: int) -> list[list[Slice]]:
    """Time points, by the first field that puts at most one slice of each into every place; empty if none does."""
    slices = [piece for place in places for piece in place]
    marks: list[Callable[[Slice], float | None]] = [
        lambda s, name=name: getattr(s.source, name)  # type: ignore[misc]
        for name in _MARKS
    ]
    for mark in marks:
        values = [mark(s) for s in slices]
        if None in values or not all(v is not None and math.isfinite(v) for v in values) or len(set(values)) != num_points:
            continue
        if all(len({mark(s) for s in place}) == len(place) for place in places):
            return [[s for s in slices if mark(s) == value] for value in sorted(set(values))]  # type: ignore[type-var]
    if len(places) == 1:
        return []
    by_words = _split_by_words(places, num_points)
    if by_words:
        return by_words
    by_instance = [] if any(len(place) != num_points for place in places) else _split_by_instance(places, num_points)
    return by_instance or _split_by_range(places, marks[:2])


def _split_by_words(places: list[list[Slice]], num_points: int) -> list[list[Slice]]:
    """Time points by other compared attributes (`attributes.WEAK`): by one, else by all whose values coincide.

    Points are ordered by their first images.
    """
    slices = [piece for place in places for piece in place]
    few = [a.name for a in WEAK if 1 < len({s.attributes[a.name] for s in slices}) <= num_points]
    for names in [[name] for name in few] + [few]:
        points: dict[tuple[Hashable, ...], list[Slice]] = {}
        for piece in sorted(slices, key=lambda s: (s.header.instance or 0, s.file, s.frame)):
            points.setdefault(tuple(piece.attributes[name] for name in names), []).append(piece)
        marks = {id(piece): mark for mark, pieces in points.items() for piece in pieces}
        if len(points) == num_points and all(len({marks[id(s)] for s in place}) == len(place) for place in places):
            return list(points.values())
    return []


def _split_by_range(places: list[list[Slice]], marks: list[Callable[[Slice], float | None]]) -> list[list[Slice]]:
    """Scans of partly overlapping ranges, by the first field that distinguishes them at every place."""
    for mark in marks:
        where: dict[float | None, list[int]] = {}
        for k, place in enumerate(places):
            for piece in place:
                where.setdefault(mark(piece), []).append(k)
        if None in where or any(len(found) != len(set(found)) for found in where.values()):
            continue
        if all(found[-1] - found[0] >= 0.25 * len(places) for found in where.values()):
            return [[s for place in places for s in place if mark(s) == value] for value in sorted(where)]  # type: ignore[type-var]
    return []


def _split_by_instance(places: list[list[Slice]], num_points: int) -> list[list[Slice]]:
    """Time points by instance number, if it runs through whole volumes, through all times of each place, or counts the times."""
    order = [[(s.header.instance, s.file, s.frame) for s in place] for place in places]
    if any(instance is None for place in order for instance, _, _ in place):
        return []
    ranked = [sorted(place, key=lambda s: (s.header.instance or 0, s.file, s.frame)) for place in places]
    numbers = np.array([[s.header.instance for s in place] for place in ranked])
    by_number = bool((numbers == numbers[0]).all() and (np.diff(numbers[0]) > 0).all()) and _clock_agrees(ranked)
    if len(np.unique(numbers)) != numbers.size and not by_number:
        return []
    by_volume = bool((numbers[:, :-1].max(axis=0) < numbers[:, 1:].min(axis=0)).all())
    by_place = bool((numbers.max(axis=1) - numbers.min(axis=1) == num_points - 1).all())
    return [[place[t] for place in ranked] for t in range(num_points)] if by_volume or by_place or by_number else []


def _clock_agrees(ranked: list[list[Slice]]) -> bool:
    """Whether trigger times, if present, rise with the image number at every place."""
    times = [[s.source.trigger_time for s in place] for place in ranked]
    return all(None in place or place == sorted(place) for place in times)  # type: ignore[type-var]
