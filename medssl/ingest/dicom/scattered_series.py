"""Exports that give every slice a series identifier of its own: joined where the geometry proves that they are one stack."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

import numpy as np

from medssl.ingest.dicom.attributes import SPLITS
from medssl.ingest.dicom.header import Header
from medssl.ingest.dicom.slices import Slice, slices_of_file
from medssl.ingest.dicom.steps import line_of
from medssl.ingest.refusal import Refusal

FEWEST = 3


def joint_series(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Series of one file each → the series that they are joined to, the first of them by its id.

    Files of one folder are joined where they agree in everything that splits a series (patient, study, contrast, matrix,
    spacing, orientation) and lie on one line at even steps.
    """
    files = [row for row in rows if row["format"] == "dicom"]
    count = Counter(row["series"] for row in files)
    folders: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in files:
        if count[row["series"]] == 1:
            folders[row["name"].rpartition("/")[0]].append(row)
    joined: dict[str, str] = {}
    for alone in folders.values():
        for stack in _stacks(alone) if len(alone) >= FEWEST else []:
            ids = sorted(piece.header.series for piece in stack)
            joined |= dict.fromkeys(ids, ids[0])
    return joined


def _stacks(rows: list[dict[str, Any]]) -> list[list[Slice]]:
    alike: dict[tuple[object, ...], list[Slice]] = defaultdict(list)
    for number, row in enumerate(rows):
        header = Header.from_json(json.loads(row["header"]))
        if header.role != "image" or header.tiles or header.layout.frames != 1:
            continue
        try:
            (piece,) = slices_of_file(number, header)
        except Refusal:
            continue
        states = [piece.attributes[a.name] for a in SPLITS if not a.unless_one_each]
        grid = (piece.rows, piece.columns, *np.round(piece.spacing, 6), *np.round(piece.orientation, 5))
        alike[(*states, *grid)].append(piece)
    return [stack for stack in alike.values() if len(stack) >= FEWEST and _is_even(stack)]


def _is_even(stack: list[Slice]) -> bool:
    normal = stack[0].normal
    positions = np.stack([s.position for s in stack])
    positions = positions[np.argsort(positions @ normal)]
    try:
        return line_of(positions, normal, stack[0].pixel_mm, interpolate=False, hint="").even
    except Refusal:
        return False
