"""The series of a DICOM label object (SEG, RTSTRUCT): the one that it names, or the only possible one."""

from __future__ import annotations

import json
from typing import Any

from medssl.ingest.refusal import Refusal, several_meant

Row = dict[str, Any]

NAME_SERIES = "let the label object refer to one series"


def give_series(rows: list[Row], joined: dict[str, str]) -> list[tuple[Row, Refusal]]:
    """Give the label objects among rows of the inventory their role and the group of their series; returns those without one.

    An object that names no series goes with the only group of its study, or of its study and frame of reference. Whether it lies
    on
    that image's voxels is checked when it is placed. `joined` maps joined series to their group.
    """
    dicom = [row for row in rows if row["format"] == "dicom"]
    known = {row["series"] for row in dicom}
    silent: list[tuple[Row, Row]] = []
    several: list[tuple[Row, Refusal]] = []
    for row in dicom:
        if '"role":"label"' in row["header"]:
            header = json.loads(row["header"])
            row["role"] = "mask"
            described = {joined.get(s, s) for s in header["references"] if s in known}
            if len(described) == 1:
                row["group"] = described.pop()
            elif described:
                several.append((row, several_meant(described, NAME_SERIES)))
            elif not header["references"]:
                silent.append((row, header))
    images = [(row["group"], json.loads(row["header"])) for row in dicom if silent and row["role"] == "image"]
    refused = several
    for row, own in silent:
        study = [(group, image) for group, image in images if image["study"] == own["study"]]
        frame = {group for group, image in study if image["frame_of_reference"] == own["frame_of_reference"]}
        possible = frame or {group for group, _ in study}
        if len(possible) == 1:
            row["group"] = possible.pop()
        elif possible:
            refused.append((row, several_meant(possible, NAME_SERIES)))
    return refused
