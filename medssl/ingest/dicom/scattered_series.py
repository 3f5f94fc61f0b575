"""Slices that have separate series identifiers but one geometry.

Some exports give every slice its own series, and some scanners every place of a beating heart: those are joined if they prove to
be one stack. A single slice of another series that completes a stack is added to it, so that the stack is refused: its identifier
may be damaged, and without it the volume would lack an end slice.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Hashable
from typing import Any

import numpy as np

from medssl.core.listing import minted
from medssl.ingest.dicom.attributes import SPLITS
from medssl.ingest.dicom.groups import Group, any_belongs_to
from medssl.ingest.dicom.header import Header
from medssl.ingest.dicom.slices import Slice, slices_of_file
from medssl.ingest.dicom.steps import line_of
from medssl.ingest.refusal import Refusal

FEWEST = 3
"""Slices of a stack; a series of fewer may belong to another."""
_POSITION = re.compile(r'"position":(\[[^]]*\])')

Row = dict[str, Any]


def joint_series(rows: list[Row], key: bytes) -> dict[str, str]:
    """Series of few files, or of one place → the series that they join, for the files of each folder.

    Joined series have an id made with `key` from their folder and common attributes; an additional slice does not change it.
    Series
    with a folder each are compared in the folder above.
    """
    series: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["format"] == "dicom" and row["series"]:
            series[row["series"]].append(row)
    in_folder: dict[str, set[str]] = defaultdict(set)
    for name, files in series.items():
        in_folder[_folder(files[0])].add(name)
    few: dict[str, list[Row]] = defaultdict(list)
    many: dict[str, dict[str, list[Row]]] = defaultdict(dict)
    small: dict[str, list[Row]] = defaultdict(list)
    for name, files in series.items():
        folder = _folder(files[0])
        if len(files) < FEWEST:
            few[folder] += files
        else:
            many[folder][name] = files
        if len(files) < FEWEST or _may_be_of_one_place(files):
            small[folder.rpartition("/")[0] if len(in_folder[folder]) == 1 else folder] += files
    joined: dict[str, str] = {}
    for folder, files in small.items():
        joined |= _scattered(_images(files), folder, key)
    for folder, files in few.items():
        joined |= _completed([s for s in _images(files) if s.header.series not in joined], many[folder])
    return joined


def _folder(row: Row) -> str:
    return str(row["name"].rpartition("/")[0])


def _may_be_of_one_place(files: list[Row]) -> bool:
    """Whether the first and the last image of a series state one position: those of a stack do not."""
    first, last = (_POSITION.search(row["header"] or "") for row in (files[0], files[-1]))
    return bool(first and last and first[1] == last[1])


def _scattered(images: list[Slice], folder: str, key: bytes) -> dict[str, str]:
    """Series of one place each that agree in all that splits a series, have as many images, and lie on one line at even steps.

    If they do not, the slices of each series number are tried: two scans may lie at the same places.
    """
    of_series: dict[str, list[Slice]] = defaultdict(list)
    for piece in images:
        of_series[piece.header.series].append(piece)
    alike: dict[tuple[Hashable, ...], list[list[Slice]]] = defaultdict(list)
    for place in of_series.values():
        kinds = {(*(s.attributes[a.name] for a in SPLITS if not a.one_each), *_grid(s)) for s in place}
        if len(kinds) == 1 and np.ptp([s.position for s in place], axis=0).max() <= place[0].same_place_mm:
            alike[(*kinds.pop(), len(place))].append(place)
    found: dict[str, str] = {}
    for agreed, places in alike.items():
        for number, stack in _stacks(places):
            words = map(str, (*agreed[:-1], *number))
            joint = minted(key, "s", folder, "series of one slice", *words)
            found |= {place[0].header.series: joint for place in stack}
    return found


def _stacks(places: list[list[Slice]]) -> list[tuple[list[Hashable], list[list[Slice]]]]:
    """The stack of all places, else those of the places of each number of a series; ([the number], the places)."""
    if _is_even([place[0] for place in places]):
        return [([], places)]
    numbered: dict[Hashable, list[list[Slice]]] = defaultdict(list)
    for place in places:
        numbered[place[0].attributes["series number"]].append(place)
    return [([number], stack) for number, stack in numbered.items() if _is_even([place[0] for place in stack])]


def _completed(singles: list[Slice], others: dict[str, list[Row]]) -> dict[str, str]:
    """Series of a slice or two → the series of their study or frame of reference whose stack they complete."""
    found: dict[str, str] = {}
    shared = {f'"{name}":"{getattr(piece.header, name)}"' for piece in singles for name in ("study", "frame_of_reference")}
    for series, files in others.items():
        if not any(words in files[0]["header"] for words in shared):
            continue
        stacks: dict[tuple[Hashable, ...], list[Slice]] = defaultdict(list)
        for piece in _images(files):
            stacks[_grid(piece)].append(piece)
        for piece in singles:
            stack = stacks.get(_grid(piece))
            if stack and any_belongs_to([piece], Group(stack)):
                found[piece.header.series] = series
    return found


def _images(rows: list[Row]) -> list[Slice]:
    """The single images among files."""
    found: list[Slice] = []
    for number, row in enumerate(rows):
        header = Header.from_json(json.loads(row["header"]))
        if header.role == "image" and not header.tiles and header.layout.frames == 1:
            try:
                found += slices_of_file(number, header)
            except Refusal:
                continue  # its own series gives the reason
    return found


def _grid(piece: Slice) -> tuple[Hashable, ...]:
    return piece.header.modality, piece.rows, piece.columns, *np.round(piece.spacing, 6), *np.round(piece.orientation, 5)


def _is_even(stack: list[Slice]) -> bool:
    if len(stack) < FEWEST:
        return False
    normal = stack[0].normal
    positions = np.stack([s.position for s in stack])
    positions = positions[np.argsort(positions @ normal)]
    try:
        return line_of(positions, normal, stack[0].pixel_mm, interpolate=False, hint="").even
    except Refusal:
        return False
