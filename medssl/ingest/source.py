"""What the conversion of any group of files needs to know about its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medssl.core.listing import minted, minted_patient
from medssl.ingest.inventory import Labels
from medssl.ingest.ledger import Row
from medssl.ingest.options import IngestOptions
from medssl.ingest.reading_pool import ReadingPool
from medssl.ingest.refusal import Request

BASE_MEMORY_MB = 200.0
"""Memory of a reading process besides its arrays."""


@dataclass(frozen=True)
class Source:
    """What the conversion of any group needs."""

    root: Path
    key: bytes
    """of ids stated by DICOM, equal in all sources"""
    own_key: bytes
    """of ids made from file names (`core/listing.key_of`)"""
    readers: ReadingPool
    options: IngestOptions
    labels: Labels
    folders: dict[str, tuple[str, str | None]]
    """class and split of pictures, if their folders define them"""
    threads: int = 1

    @cached_property
    def subject_of_id(self) -> dict[str, str]:
        """The patient in the label table for a series (by its UID or its id) or for a PatientID, by keyed id."""
        table = self.labels.subject
        series = {minted(self.key, "s", name): subject for name, subject in table.items()}
        return table | series | {minted_patient(self.key, name): subject for name, subject in table.items()}

    def file(self, row: Row) -> Request:
        """The request for a file."""
        return {"path": str(self.root / row["name"]), "size": int(row["size"]), "mtime_ns": int(row["mtime_ns"])}


NewFile = Callable[[str, str], Path]
"""(volume id, file name) → a path below that volume's unfinished folder."""
