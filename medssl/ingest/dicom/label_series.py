"""Which series a DICOM label object (SEG, RTSTRUCT) is for: the one that it names, or the only one that it can be for."""

from __future__ import annotations

import json
from typing import Any

from medssl.ingest.refusal import Refusal

Row = dict[str, Any]


def give_series(rows: list[Row], joined: dict[str, str]) -> list[tuple[Row, Refusal]]:
    """Give the label objects among rows of the inventory their role, and the group of their series; those that none fits.

    An object that names no series goes with the only group of its study, or of its study and frame of reference: whether it
    lies on that image's voxels is seen when it is placed. `joined` has the group of series that are one.
    """
    dicom = [row for row in rows if row["format"] == "dicom"]
    known = {row["series"] for row in dicom}
    silent: list[tuple[Row, Row]] = []
    for row in dicom:
        if '"role":"label"' in row["header"]:
            header = json.loads(row["header"])
            row["role"] = "mask"
            described = {joined.get(s, s) for s in header["references"] if s in known}
            if len(described) == 1:
                row["group"] = described.pop()
            elif not header["references"]:
                silent.append((row, header))
    images = [(row["group"], json.loads(row["header"])) for row in dicom if silent and row["role"] == "image"]
    refused = []
    for row, own in silent:
        study = [(group, image) for group, image in images if image["study"] == own["study"]]
        frame = {group for group, image in study if image["frame_of_reference"] == own["frame_of_reference"]}
        possible = frame or {group for group, _ in study}
        if len(possible) == 1:
            row["group"] = possible.pop()
        elif possible:
            sentence = f"it names no series, and {len(possible)} of its study may be meant"
            refused.append((row, Refusal("mask_without_image", sentence)))
    return refused
