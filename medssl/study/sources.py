"""The listings of a study's sources: names, sizes and times of their files, refreshed before planning. No header is read for it.

The listing with real paths stays in the private folder. The DAG sees a count, a size and a keyed digest.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

from medssl.core.files import canonical_json, write_if_changed
from medssl.core.label_table import FOLDERS, identities
from medssl.core.layout import PRIVATE, Layout
from medssl.core.listing import load_key, walk
from medssl.study.options import Study


def refresh_sources(study: Study, layout: Layout) -> None:
    """List every source folder again: names, sizes, times; and leave the real paths where only ingest reads them.

    Raises:
        StudyError: a source does not exist or holds no file.
    """
    key = load_key(study.id_key)
    for source, options in study.sources.items():
        place = {
            "path": str(Path(options.path).resolve()),
            "labels": options.labels if options.labels in (None, FOLDERS) else str(Path(options.labels).resolve()),
            "id_key": str(Path(study.id_key or PRIVATE / "id_key").resolve()),
            "folder": str(Path(layout.private(source, "")).resolve()),
        }
        refresh(layout, source, options.path, key, labels=options.labels)
        write_if_changed(layout.private(source, "place.json"), canonical_json(place) + "\n")


def refresh(layout: Layout, source: str, path: str, key: bytes, *, labels: str | None = None) -> None:
    """List the source and write its listing (private) and its summary (public), each only if it changed.

    Label files are listed apart, also where they lie within the source: only fine-tuning waits for them. What a label table
    says of splits, subjects and masks counts for the source's own digest, because the early stages depend on it.

    Raises:
        StudyError: the source does not exist or holds no file.
    """
    rows = walk(source, path)
    if labels not in (None, FOLDERS):
        rows = [row for row in rows if not _lies_in(Path(path) / row[0], str(labels))]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    PRIVATE.mkdir(mode=0o700, exist_ok=True)
    write_if_changed(layout.private(source, "listing.jsonl"), text)
    _write_summary(layout.listing(source), rows, text + identities(labels), key)
    if labels:
        beside = walk(f"{source}.labels", labels) if _holds_files(labels) else []
        _write_summary(layout.label_listing(source), beside, json.dumps(beside), key)


def _write_summary(target: str, rows: list[tuple[str, int, int, str]], text: str, key: bytes) -> None:
    digest = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    summary = {"files": len(rows), "bytes": sum(r[1] for r in rows), "digest": digest[:16]}
    write_if_changed(target, canonical_json(summary) + "\n")


def _holds_files(labels: str) -> bool:
    """Whether label files are there already; they may come later."""
    path = Path(labels)
    return labels != FOLDERS and (path.is_file() or any(not entry.is_dir() for entry in path.rglob("*")))


def _lies_in(file: Path, labels: str) -> bool:
    """Whether a file of a source is one of its label files."""
    return file.absolute().is_relative_to(Path(labels).absolute())
