"""Slices that a series identifier sets apart and geometry puts together.

Some exports give every slice a series of its own: those are joined where they prove to be one stack. A single slice of another
series that completes a stack is put beside it, so that the stack is refused for it: its identifier may be damaged, and without it
the volume would be an end short.
"""

from __future__ import annotations

import json
from collections import defaultdict
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

Row = dict[str, Any]


def joint_series(rows: list[Row], key: bytes) -> dict[str, str]:
    """Series of few files → the series that they are put to, for the files of each folder.

    Slices that bear a series each have an id of their folder and of what they agree in, made with `key`: a slice more leaves it.
    """
    series: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["format"] == "dicom" and row["series"]:
            series[row["series"]].append(row)
    few: dict[str, list[Row]] = defaultdict(list)
    many: dict[str, dict[str, list[Row]]] = defaultdict(dict)
    for name, files in series.items():
        folder = files[0]["name"].rpartition("/")[0]
        if len(files) < FEWEST:
            few[folder] += files
        else:
            many[folder][name] = files
    joined: dict[str, str] = {}
    for folder, files in few.items():
        singles = _images(files)
        found = _scattered(singles, folder, key)
        joined |= found | _completed([s for s in singles if s.header.series not in found], many[folder])
    return joined


def _scattered(singles: list[Slice], folder: str, key: bytes) -> dict[str, str]:
    """Series of one slice each that agree in all that splits a series, and lie on one line at even steps."""
    alike: dict[tuple[object, ...], list[Slice]] = defaultdict(list)
    for piece in singles:
        alike[(*(piece.attributes[a.name] for a in SPLITS if not a.one_each), *_grid(piece))].append(piece)
    found: dict[str, str] = {}
    for agreed, stack in alike.items():
        ids = sorted({piece.header.series for piece in stack})
        if len(ids) == len(stack) >= FEWEST and _is_even(stack):
            found |= dict.fromkeys(ids, minted(key, "s", folder, "series of one slice", *map(str, agreed)))
    return found


def _completed(singles: list[Slice], others: dict[str, list[Row]]) -> dict[str, str]:
    """Series of a slice or two → the series of their study or frame of reference whose stack they complete."""
    found: dict[str, str] = {}
    shared = {f'"{name}":"{getattr(piece.header, name)}"' for piece in singles for name in ("study", "frame_of_reference")}
    for series, files in others.items():
        if not any(words in files[0]["header"] for words in shared):
            continue
        stacks: dict[tuple[object, ...], list[Slice]] = defaultdict(list)
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
                continue  # its own series says why
    return found


def _grid(piece: Slice) -> tuple[object, ...]:
    return piece.header.modality, piece.rows, piece.columns, *np.round(piece.spacing, 6), *np.round(piece.orientation, 5)


def _is_even(stack: list[Slice]) -> bool:
    normal = stack[0].normal
    positions = np.stack([s.position for s in stack])
    positions = positions[np.argsort(positions @ normal)]
    try:
        return line_of(positions, normal, stack[0].pixel_mm, interpolate=False, hint="").even
    except Refusal:
        return False
