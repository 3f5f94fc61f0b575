"""The private table of a source: the outcome for every file, and the files behind each id of the ledgers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from medssl.core.listing import minted, spelled

Row = dict[str, Any]

COLUMNS = ["file", "code", "sentence", "item_id", "series_id", "volume_id", "subject_id", "image_id", "part"]
"""A row per file and per volume or refusal that it contributes to; `file` as `core/listing.spelled` writes it. An NPZ set has a
row per image, and `part` names it: `train_images[17]`.
"""


def item_rows(record: Row, said: dict[str, tuple[str, str]], own_key: bytes) -> list[Row]:
    """The rows of one group of files.

    Args:
        record: `series` and `rejected` (rows of the ledgers), `sources` (volume id → names of its files), `refused` (item id →
            names of its files), `said` (item id → file → its own sentence) and `parts` (volume id → image id → its place
            in the file).
        said: name → code and sentence of a file with its own refusal, which is more specific than that of its group.
        own_key: of the ids of pictures.
    """
    rows = []
    for series in record["series"]:
        ids = {name: series[name] or "" for name in ("series_id", "volume_id", "subject_id")}
        for name in record["sources"][series["volume_id"]]:
            parts = record["parts"].get(series["volume_id"], {})
            rows += [_row(name, image_id=image, part=spelled(part), **ids) for image, part in parts.items()]
            if parts:
                continue
            image = minted(own_key, "i", name) if series["format"] == "png" else ""
            rows.append(_row(name, image_id=image, **ids))
    for rejected in record["rejected"]:
        for name in record["refused"][rejected["item_id"]]:
            code, sentence = said.get(name, ("", ""))
            if code != rejected["code"]:
                own = record["said"].get(rejected["item_id"], {})
                code, sentence = rejected["code"], own.get(name, rejected["sentence"])
            rows.append(_row(name, code=code, sentence=sentence, item_id=rejected["item_id"]))
    return rows


@dataclass(frozen=True)
class Origin:
    """The files that a volume, or a picture of an image set, came from."""

    volume_id: str
    index: int | None
    """place of a picture in its image set; None for a volume"""
    format: str
    """of the files, as in `series.tsv`"""
    files: tuple[str, ...]
    """names below the source, in order; of a DICOM series one per slice or object"""
    part: str = ""
    """of an NPZ file, which image: `train_images[17]`"""

    @property
    def id(self) -> str:
        """Of the volume, or the sample of the picture."""
        return self.volume_id if self.index is None else f"{self.volume_id}-{self.index:04d}"


def origins_of(record: Row, pictures: dict[str, dict[str, int]], own_key: bytes) -> list[Origin]:
    """Where the volumes and pictures of one group of files come from.

    Args:
        record: see `item_rows`.
        pictures: of each image set, the place of every image id.
        own_key: of the ids of pictures.
    """
    found = []
    for series in record["series"]:
        volume_id, kind = series["volume_id"], series["format"]
        names, places, parts = record["sources"][volume_id], pictures.get(volume_id), record["parts"].get(volume_id, {})
        if places is None:
            found.append(Origin(volume_id, None, kind, tuple(sorted(names))))
        elif parts:
            found += [Origin(volume_id, places[image], kind, tuple(names), part) for image, part in parts.items()]
        else:
            found += [Origin(volume_id, places[minted(own_key, "i", name)], kind, (name,)) for name in names]
    return found


def label_item_rows(placed: Iterable[tuple[str, Row]], refused: Iterable[tuple[Row, list[Row]]]) -> list[Row]:
    """The rows of label files: (volume id, mask) of those in use, (row of the ledger, its files) of those refused."""
    rows = [_row(mask["name"], volume_id=volume_id) for volume_id, mask in placed]
    for row, files in refused:
        rows += [_row(f["name"], code=row["code"], sentence=row["sentence"], item_id=row["item_id"]) for f in files]
    return rows


def said_of(rows: Iterable[Row]) -> dict[str, tuple[str, str]]:
    """Code and sentence of each file of the inventory that has its own refusal."""
    return {row["name"]: (row["code"], row["sentence"]) for row in rows if row["code"]}


def sorted_items(rows: Iterable[Row]) -> list[Row]:
    """The rows of the table, by file; empty cells are None."""
    ordered = sorted(rows, key=lambda row: tuple(row.values()))
    return [{name: row[name] or None for name in COLUMNS} for row in ordered]


def _row(file: str, **values: str) -> Row:
    return dict.fromkeys(COLUMNS, "") | {"file": spelled(file)} | values
