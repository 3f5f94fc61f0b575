"""Volumes on disk, each moved into place as a whole, and a private record of every group's outcome and inputs."""

from __future__ import annotations

import functools
import json
import os
import secrets
import shutil
from pathlib import Path

from medssl.artefacts.series import IMAGES, VolumeFile
from medssl.core.errors import DiskFullError
from medssl.core.file_names import GRID_FORMATS
from medssl.core.files import canonical_json, inside, read_json, require_free_space, sha256_file, sha256_text, sync, write_json
from medssl.ingest.conversion import convert_group
from medssl.ingest.ledger import Row
from medssl.ingest.outcome import Outcome
from medssl.ingest.source import Source

DECIDES = ("name", "size", "mtime_ns", "code", "role", "tainted", "damaged", "beside", "unread", "beside_volumes", "subject")
"""The inventory's columns of a file that decide the outcome of its group."""


class VolumeStore:
    """Volumes below the folder `volumes`, and a record per group in the folder `records`.

    `basis` is a text of everything besides its files that decides the outcome of a group: options, code, key.
    """

    def __init__(self, volumes: Path, records: Path, basis: str) -> None:
        self._volumes, self._records, self._basis = volumes, records, basis

    def sweep(self, shard: int) -> None:
        """Remove unfinished files of a killed conversion of this shard."""
        for leftover in self._volumes.glob(f".part-{shard}-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _hash(self, group: list[Row]) -> str:
        files = [[row[name] for name in DECIDES] for row in group]
        return sha256_text(canonical_json([sorted(files), self._basis]))

    def record(self, group: str) -> Row | None:
        """The outcome of a group at its last conversion."""
        path = self._records / f"{group}.json"
        return read_json(path) if path.is_file() else None

    def kept(self, group: list[Row]) -> Row | None:
        """The record of a group whose files and options are unchanged and whose volumes are intact."""
        record = self.record(group[0]["group"])
        return record if record is not None and record["hash"] == self._hash(group) and self.intact(record) else None

    def intact(self, record: Row) -> bool:
        """Whether every volume file is unchanged (by size and change time, else by its hash)."""
        for volume in record["volumes"]:
            for name, entry in volume["files"].items():
                path = inside(self._volumes, volume["volume_id"], name)
                if not path.is_file() or path.stat().st_size != entry["size"]:
                    return False
                if path.stat().st_ctime_ns != entry["ctime_ns"] and sha256_file(path) != entry["sha256"]:
                    return False
        return True

    def convert(self, group: list[Row], source: Source, shard: int) -> Row:
        """Convert a group and move its volumes into place, each folder as a whole, the record last."""
        volumes = self._volumes
        part = volumes / f".part-{shard}-{secrets.token_hex(4)}"
        require_free_space(volumes, _expected_bytes(group))
        try:
            outcome = convert_group(group, source, functools.partial(new_file_in, part))
            record = self._place(outcome, part)
        except OSError as error:
            raise DiskFullError(
                f"no room to write volumes in {volumes}: {error.strerror}. Free some space and run the same command again."
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        record |= {"hash": self._hash(group)}
        write_json(self._records / f"{group[0]['group']}.json", record)
        return record

    def _place(self, outcome: Outcome, part: Path) -> Row:
        placed = []
        for volume in outcome.volumes:
            volume_id = volume.row["volume_id"]
            folder = part / volume_id
            VolumeFile.check({**volume.row, **volume.extra}).write(folder / VolumeFile.FILE)
            if volume.images is not None:
                _write_images(folder / "images.parquet", volume.images)
            final = inside(self._volumes, volume_id)
            if final.exists():
                shutil.rmtree(final)
            known = {"image.npy": volume.row["content_sha256"]}
            files = sorted(path.name for path in folder.iterdir())
            for name in files:
                sync(folder / name)
            os.replace(folder, final)
            sync(self._volumes)
            placed.append(
                {
                    "volume_id": volume_id,
                    "files": {
                        name: {
                            "size": (final / name).stat().st_size,
                            "ctime_ns": (final / name).stat().st_ctime_ns,
                            "sha256": known.get(name) or sha256_file(final / name),
                        }
                        for name in files
                    },
                }
            )
        return {"volumes": placed, **outcome.record()}

    def forget(self, wanted: set[str], groups: set[str]) -> None:
        """Remove volumes and records that nothing refers to any more."""
        for folder in self._volumes.glob("*"):
            if folder.name not in wanted and not folder.name.startswith(".part-"):
                shutil.rmtree(folder, ignore_errors=True)
        for path in self._records.glob("*.json"):
            if path.stem not in groups:
                path.unlink()


def new_file_in(place: Path, volume_id: str, name: str) -> Path:
    """A path in the folder of a volume below `place`; the folder is created."""
    folder = place / volume_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _write_images(target: Path, images: list[Row]) -> None:
    import pandas as pd

    IMAGES.write(target, pd.DataFrame(images))


def _expected_bytes(group: list[Row]) -> int:
    """An estimate, from its headers, of a group's size on disk."""
    total = 0
    for row in group:
        header = json.loads(row["header"]) if row["header"] else {}
        if row["format"] == "dicom":
            layout = header["layout"]
            total += layout["rows"] * layout["columns"] * layout["frames"] * 2
        elif row["format"] in GRID_FORMATS:
            total += header["bytes"]
        elif row["format"] == "npz":
            total += sum(s["shape"][0] * s["shape"][1] * s["shape"][2] for s in header["sets"])
        elif row["format"] == "png":
            total += header["shape"][0] * header["shape"][1]
    return total
