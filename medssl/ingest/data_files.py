"""Headers whose values lie in a separate file (NRRD, MetaImage): finds that file in the listing, so that each counts once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medssl.ingest.packed import MOST_RATIO
from medssl.ingest.refusal import Refusal, Request

Row = dict[str, Any]

DATA = "data"
"""Format and role of a file that holds the values of another file's header."""


def claim_data_files(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Match every header with its data file: (header, data file), both rows of the inventory and changed in place.

    A header without its own data file is refused; a data file whose header is missing is not an image.
    """
    by_name = {row["name"]: row for row in rows}
    claimed: list[tuple[Row, Row]] = []
    taken: set[str] = set()
    for row in sorted(rows, key=lambda row: str(row["name"])):
        header = json.loads(row["header"]) if row["format"] in ("nrrd", "metaimage") and not row["code"] else {}
        if header.get("data_file") is None:
            continue
        name = _beside(row["name"], header["data_file"])
        data = by_name.get(name)
        try:
            if data is None or data["code"] in ("link", "special_file", "unreadable", "changed"):
                raise Refusal("missing_data")
            if data["format"] not in ("", DATA):
                raise Refusal("missing_data", "that file is itself an image")
            if name in taken:
                raise Refusal("shared_data")
            if int(data["size"]) * (MOST_RATIO if header["packed"] else 1) < header["bytes"]:
                raise Refusal("truncated", f"{data['size']} bytes cannot hold {header['bytes']}")
        except Refusal as refusal:
            row |= {**refusal.answer(), "format": ""}
            continue
        taken.add(name)
        row["header"] = json.dumps(
            header | {"data_size": int(data["size"]), "data_mtime_ns": int(data["mtime_ns"])}, separators=(",", ":")
        )
        data |= {"format": DATA, "code": "", "sentence": "", "series": "", "header": ""}
        claimed.append((row, data))
    for row in rows:
        if row["format"] == DATA and row["name"] not in taken:
            row |= {**Refusal("not_an_image").answer(), "format": ""}
    return claimed


def follow(header: Row, data: Row) -> None:
    """Give the data file its header's group and refusal."""
    data |= {"group": header["group"], "role": DATA, "code": header["code"], "sentence": header["sentence"]}


def data_request(row: Row, root: Path) -> Request | None:
    """The request for a header's data file, or None if the values lie in the file itself."""
    header = json.loads(row["header"])
    if header.get("data_file") is None:
        return None
    stated = {"size": header["data_size"], "mtime_ns": header["data_mtime_ns"]}
    return {"path": str(root / _beside(row["name"], header["data_file"])), **stated}


def with_data_files(rows: list[Row], group: list[Row]) -> list[Row]:
    """Rows and the data files of their headers, of a group."""
    names = {row["name"] for row in rows} | {
        _beside(row["name"], header["data_file"]) for row in rows if (header := json.loads(row["header"])).get("data_file")
    }
    return [row for row in group if row["name"] in names]


def _beside(name: str, other: str) -> str:
    folder, slash, _ = name.rpartition("/")
    return f"{folder}{slash}{other}"
