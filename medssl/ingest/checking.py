"""A check of a source without a study: its ledger, and the outcome for every file. Nothing is left on disk."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from medssl.core import listing
from medssl.core.layout import PRIVATE
from medssl.ingest.conversion import convert_group
from medssl.ingest.convert_images import picture_labels
from medssl.ingest.inventory import by_group, inventory, labels_of
from medssl.ingest.items import item_rows, said_of, sorted_items
from medssl.ingest.ledger import Row
from medssl.ingest.options import IngestOptions
from medssl.ingest.reading_pool import ReadingPool
from medssl.ingest.remarks import remarks
from medssl.ingest.source import Source
from medssl.ingest.volume_store import new_file_in

NAME = "check"


@dataclass(frozen=True)
class Checked:
    """The outcome for a source."""

    series: list[Row]
    """rows of `series.tsv`"""
    rejected: list[Row]
    """rows of `rejected.tsv`"""
    items: list[Row]
    """every file with its code, sentence and ids (`items.COLUMNS`)"""
    remarks: list[str]
    """ingest's remarks at its end (`remarks.py`)"""
    keyed: bool
    """whether the ids use a key that studies may have, or are valid only for this path"""
    key: bytes = field(repr=False)
    """the key"""


def check_source(
    path: Path | str,
    *,
    options: IngestOptions | None = None,
    labels: str | None = None,
    id_key: str | None = None,
    name: str = NAME,
) -> Checked:
    """What a study would make of a source.

    Args:
        path: a folder or one file.
        options: of stage ingest; the defaults if None.
        labels: a label table, for its patients, splits and masks.
        id_key: a file with the key of the ids. None takes the one in `.medssl` if there is one, so that ids equal those of the
            studies there; otherwise ids are valid only for this path.
        name: the source's name in the study; ids from file names depend on it.

    Raises:
        StudyError: nothing is there, or the key cannot be used.
    """
    files = listing.walk(None, str(path))
    keyed = id_key is not None or (PRIVATE / "id_key").is_file()
    key = listing.load_key(id_key) if keyed else _key_of_path(Path(path))
    root = Path(path).parent if Path(path).is_file() else Path(path)
    options = (options or IngestOptions()).model_copy(update={"shards": 1})
    given, own_key = labels_of(labels, (name for name, *_ in files)), listing.key_of(name, key)
    series: list[Row] = []
    rejected: list[Row] = []
    items: list[Row] = []
    with ReadingPool(key, min(2, os.cpu_count() or 1)) as readers, tempfile.TemporaryDirectory(prefix="medssl-") as scratch:
        found = inventory(files, root, own_key, readers, options=options, labels=given)
        source = Source(root, key, own_key, readers, options, given, picture_labels(found))
        for group, rows in by_group(found).items():
            place = Path(scratch) / group
            outcome = convert_group(rows, source, functools.partial(new_file_in, place))
            series += [volume.row for volume in outcome.volumes]
            rejected += outcome.rejected
            items += item_rows(outcome.record(), said_of(rows), own_key)
            shutil.rmtree(place, ignore_errors=True)
    return Checked(
        sorted(series, key=lambda row: str(row["volume_id"])),
        sorted(rejected, key=lambda row: str(row["item_id"])),
        sorted_items(items),
        remarks(options, given, labels, found, series, key),
        keyed,
        key,
    )


def _key_of_path(path: Path) -> bytes:
    return hashlib.sha256(b"medssl check " + os.fsencode(os.path.realpath(path))).digest()
