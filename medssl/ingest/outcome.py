"""The outcome of a group of files: volumes and refusals. Every file is counted in exactly one of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from medssl.core.listing import minted
from medssl.ingest.ledger import Row
from medssl.ingest.refusal import Answer


@dataclass
class Converted:
    """An accepted volume: its row, the additional content of `volume.json`, its image table, its source files."""

    row: Row
    extra: Row
    files: set[str]
    """those that are not counted for an earlier volume"""
    sources: list[str]
    """all of them"""
    images: list[Row] | None = None
    parts: dict[str, str] = field(default_factory=dict)
    """image id → its place in the one file that holds many, `train_images[17]`; for the private table"""

    def add_mask(self, answer: Answer, files: list[Row]) -> None:
        """Add a mask to its volume's row, which also counts its files."""
        self.row["label"] = True
        self.row["num_files"] += len(files)
        self.row["bytes"] += sum(int(file["size"]) for file in files)
        self.files |= {file["name"] for file in files}
        self.sources = [*self.sources, *(file["name"] for file in files)]
        self.extra["mask_labels"] = answer["labels"]
        if answer.get("overlap"):
            self.row["warnings"] = [*self.row["warnings"], "overlapping_labels"]


@dataclass
class Outcome:
    """The outcome of a group of files."""

    key: bytes
    """of the ids"""
    volumes: list[Converted] = field(default_factory=list)
    rejected: list[Row] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)
    """item id → names of its files, for the private table"""
    said: dict[str, dict[str, str]] = field(default_factory=dict)
    """item id → file → its own sentence, for the private table"""

    def accept(self, row: Row, answer: Answer, files: list[Row]) -> Converted:
        """Accept a volume; files that an earlier volume of the group counts are not counted again."""
        counted = {name for volume in self.volumes for name in volume.files}
        fresh = [file for file in files if file["name"] not in counted]
        row["num_files"], row["bytes"] = len(fresh), sum(int(file["size"]) for file in fresh)
        beside = ("source_shape", "source_affine", "source_codes", "padded_voxels")
        extra: Row = {name: answer[name] for name in beside if name in answer}
        volume = Converted(row, extra, {file["name"] for file in fresh}, [file["name"] for file in files])
        self.volumes.append(volume)
        return volume

    def withdraw(self, volumes: list[Converted], code: str, sentence: str, rows: list[Row]) -> None:
        """Refuse volumes that were accepted before; `rows` are the files of the group, each of which stays counted once."""
        names = {name for volume in volumes for name in volume.files}
        self.volumes = [volume for volume in self.volumes if all(volume is not other for other in volumes)]
        files = [row for row in rows if row["name"] in names]
        if files:
            self.reject(code, sentence, files, "series")

    def reject(self, code: str, sentence: str, rows: list[Row], stage: str, said: dict[str, str] | None = None) -> None:
        """One row for files refused together; files that a volume already counts are not counted again.

        `said` holds, by file name, sentences for the private table that replace the common one.
        """
        counted = {name for volume in self.volumes for name in volume.files}
        counted.update(*self.refused.values())
        fresh = [row for row in rows if row["name"] not in counted]
        row = rejected_row(self.key, code, sentence, rows, fresh, stage)
        if any(other["item_id"] == row["item_id"] for other in self.rejected):
            return
        self.rejected.append(row)
        self.refused[row["item_id"]] = [file["name"] for file in rows]
        if said:
            self.said[row["item_id"]] = said

    def record(self) -> Row:
        """The rows of both ledgers, and the names of the files behind each id."""
        return {
            "series": [volume.row for volume in self.volumes],
            "rejected": self.rejected,
            "sources": {volume.row["volume_id"]: volume.sources for volume in self.volumes},
            "refused": self.refused,
            "said": self.said,
            "parts": {volume.row["volume_id"]: volume.parts for volume in self.volumes if volume.parts},
        }


def rejected_row(key: bytes, code: str, sentence: str, files: list[Row], counted: list[Row], stage: str) -> Row:
    """The row of `rejected.tsv` for files refused together; only `counted` are in no other row."""
    return {
        "item_id": minted(key, "i", code, *sorted(file["name"] for file in files)),
        "code": code,
        "sentence": sentence,
        "num_files": len(counted),
        "bytes": sum(int(file["size"]) for file in counted),
        "stage_of_check": stage,
    }


def by_code(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Refused files by their code, sorted."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["code"]].append(row)
    return dict(sorted(found.items()))
