"""The listings of a study's sources: names, sizes and times of their files, refreshed before planning. No header is read for it.

The listing with real paths stays in the private folder. The DAG sees a count, a size and a keyed digest.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from medssl.core.files import canonical_json, sha256_file, write_if_changed
from medssl.core.label_table import FOLDERS, identities
from medssl.core.layout import PRIVATE, Layout
from medssl.core.listing import Listed, Stamped, load_key, read, stamped
from medssl.study.source_files import SourceFiles

if TYPE_CHECKING:
    from medssl.study.options import Study


def refresh_sources(study: Study, layout: Layout, listed: Mapping[str, SourceFiles] = MappingProxyType({})) -> list[str]:
    """List every source folder that is not yet `listed`; leave the real paths where only ingest reads them.

    Returns:
        notes on files that count as unchanged but may have changed.

    Raises:
        StudyError: a source does not exist or holds no file.
    """
    key, notes = load_key(study.id_key), []
    for source, options in study.sources.items():
        place = {
            "path": str(Path(options.path).resolve()),
            "labels": options.labels if options.labels in (None, FOLDERS) else str(Path(options.labels).resolve()),
            "records": None if options.records is None else str(Path(options.records).resolve()),
            "id_key": str(Path(study.id_key or PRIVATE / "id_key").resolve()),
            "folder": str(Path(layout.private(source, "")).resolve()),
        }
        files = listed.get(source) or SourceFiles.of(
            source, options.path, options.labels, study.ingest_of(source), records=options.records
        )
        notes += refresh(layout, source, files, key, labels=options.labels)
        if options.records is not None:
            refresh_records(layout, source, options.records, key)
        write_if_changed(layout.private(source, "place.json"), canonical_json(place) + "\n")
    return notes


def refresh(layout: Layout, source: str, files: SourceFiles, key: bytes, *, labels: str | None = None) -> list[str]:
    """Write the listing of a source (private) and its summary (public), each only if it changed.

    Label files are listed separately, even if they lie within the source: only fine-tuning needs them. Splits, subjects and masks
    in a label table count for the digest of the source, because the early stages depend on them. A label table counts by its
    bytes, all other files by name, size and time; they are not read.

    Returns:
        notes on files whose row is unchanged but that were written, renamed or given other permissions since.
    """
    PRIVATE.mkdir(mode=0o700, exist_ok=True)
    notes = list(_rewritten(f"sources.{source}.path", files.found, Path(layout.private(source, "listing.jsonl"))))
    rows = [row for row, _ in files.found]
    _write_summary(layout.listing(source), rows, _lines(rows) + identities(labels), key)
    if labels:
        found = stamped(f"{source}.labels", labels) if _holds_files(labels) else []
        rows = [row for row, _ in found]
        if Path(labels).is_file():
            _write_summary(layout.label_listing(source), rows, json.dumps(rows) + sha256_file(labels), key)
        else:
            notes += _rewritten(f"sources.{source}.labels", found, Path(layout.private(source, "label_listing.jsonl")))
            _write_summary(layout.label_listing(source), rows, json.dumps(rows), key)
    return notes


def refresh_records(layout: Layout, source: str, records: str, key: bytes) -> None:
    """Write the summary of a table of records, by its bytes; it may come later."""
    found = Path(records).is_file()
    rows = [row for row, _ in stamped(f"{source}.records", records)] if found else []
    _write_summary(layout.record_listing(source), rows, sha256_file(records) if found else "", key)


def _rewritten(where: str, found: list[Stamped], listing: Path) -> Iterator[str]:
    """Write a private listing; yield notes on files with an unchanged row that were changed after the last listing.

    The latest change is stored beside it, so that each file is reported once. The clock of the file system counts.
    """
    latest = listing.with_suffix(".latest")
    if listing.is_file() and latest.is_file():
        until_ns = int(latest.read_text())
        late = [row for row, time_ns in found if time_ns > until_ns]
        count = len(set(late) & set(read(listing))) if late else 0
        if count:
            yield (
                f"{where}: {count} of {len(found)} files were written, renamed or given other rights since the last run and have "
                "the size and time that they had, so they count as unchanged. If their content is new, touch them."
            )
    write_if_changed(listing, _lines([row for row, _ in found]))
    write_if_changed(latest, f"{max((time_ns for _, time_ns in found), default=0)}\n")


def _lines(rows: list[Listed]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _write_summary(target: str, rows: list[tuple[str, int, int, str]], text: str, key: bytes) -> None:
    digest = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    summary = {"files": len(rows), "bytes": sum(r[1] for r in rows), "digest": digest[:16]}
    write_if_changed(target, canonical_json(summary) + "\n")


def _holds_files(labels: str) -> bool:
    """Whether label files exist; they may come later."""
    path = Path(labels)
    return labels != FOLDERS and (path.is_file() or any(not entry.is_dir() for entry in path.rglob("*")))
