"""Ingest a folder of many small sources at once, and what became of each."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medssl.core.listing import key_of, walk
from medssl.ingest.conversion import convert_group
from medssl.ingest.convert_images import picture_labels
from medssl.ingest.inventory import Labels, by_group, inventory
from medssl.ingest.options import IngestOptions
from medssl.ingest.reading_pool import ReadingPool
from medssl.ingest.source import Source

KEY = b"a key of the tests, 32 bytes long"


@dataclass
class Ingested:
    """What became of one source folder."""

    volumes: list[tuple[np.ndarray, np.ndarray, dict]] = field(default_factory=list)
    """(values, affine, row)"""
    folders: list[Path] = field(default_factory=list)
    rejected: list[dict] = field(default_factory=list)

    @property
    def codes(self) -> set[str]:
        return {row["code"] for row in self.rejected}

    @property
    def num_files(self) -> int:
        return sum(row["num_files"] for _, _, row in self.volumes) + sum(row["num_files"] for row in self.rejected)


def ingest(
    root: Path,
    scratch: Path,
    *,
    options: dict | None = None,
    labels: Labels | None = None,
    depth: int = 1,
    name: str = "test",
    readers: ReadingPool | None = None,
) -> dict[str, Ingested]:
    """Ingest `root` as source `name`; results by the first `depth` parts of the files' paths."""
    chosen = IngestOptions(**(options or {}))
    labels = labels or Labels()
    found: dict[str, Ingested] = defaultdict(Ingested)
    own = readers or ReadingPool(KEY, 2)
    try:
        own_key = key_of(name, KEY)
        files = inventory(walk(name, str(root)), root, own_key, own, options=chosen, labels=labels)
        folders = picture_labels(files)
        source = Source(root, KEY, own_key, own, chosen, labels, folders)
        for group, records in by_group(files).items():
            place = scratch / group

            def new_file(volume_id: str, name: str, place: Path = place) -> Path:
                (place / volume_id).mkdir(parents=True, exist_ok=True)
                return place / volume_id / name

            outcome = convert_group(records, source, new_file)
            part = "/".join(records[0]["name"].split("/")[:depth])
            assert len({"/".join(r["name"].split("/")[:depth]) for r in records}) == 1
            for volume in outcome.volumes:
                row = volume.row
                array = np.load(place / row["volume_id"] / "image.npy", mmap_mode="r")
                found[part].volumes.append((array * row["slope"] + row["intercept"], np.array(row["affine"]), row))
                found[part].folders.append(place / row["volume_id"])
            found[part].rejected += outcome.rejected
    finally:
        if readers is None:
            own.__exit__(None, None, None)
    return found
