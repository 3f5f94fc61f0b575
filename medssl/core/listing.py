"""The listing of a source: names, sizes and times of its files, refreshed before planning. No header is read for it.

The listing with real paths stays in the private folder. The DAG sees a count, a size and a keyed digest.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from pathlib import Path

from medssl.core.errors import StudyError
from medssl.core.files import canonical_json, write_if_changed, write_text
from medssl.core.label_table import FOLDERS, identities
from medssl.core.layout import PRIVATE, Layout


def load_key(path: str | None) -> bytes:
    """The key of the ids: the file the study names, or one made at first use in the private folder (mode 0600).

    Raises:
        StudyError: the named file is missing or too short.
    """
    if path is not None:
        file = Path(path)
        key = file.read_bytes().strip() if file.is_file() else b""
        if len(key) < 16:
            raise StudyError(
                "id_key names a file that is missing or shorter than 16 bytes. Correct the path, or leave id_key out."
            )
        return key
    file = PRIVATE / "id_key"
    if not file.is_file():
        PRIVATE.mkdir(mode=0o700, exist_ok=True)
        write_text(file, secrets.token_hex(32) + "\n")
        file.chmod(0o600)
    return file.read_bytes().strip()


def minted(key: bytes, prefix: str, *names: str) -> str:
    """An id for names that must not be seen: `p-4f2a01b3c4d5`."""
    digest = hmac.new(key, "\x1f".join(names).encode("utf-8", "surrogateescape"), hashlib.sha256)
    return f"{prefix}-{digest.hexdigest()[:12]}"


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


def read(path: Path | str) -> list[tuple[str, int, int, str]]:
    """The rows of a private listing file."""
    with open(path, encoding="utf-8") as file:
        return [tuple(json.loads(line)) for line in file]  # type: ignore[misc]


def walk(source: str, path: str) -> list[tuple[str, int, int, str]]:
    """Every entry below `path` as (relative name, size, mtime_ns, kind), sorted; kind is `file`, `link` or `special`.

    Links are not followed. A single file lists as itself.

    Raises:
        StudyError: nothing is there.
    """
    root = Path(path)
    if not root.exists():
        raise StudyError(
            f"sources.{source}.path does not exist. Correct the path in the study file (it is relative to where snakemake runs)."
        )
    rows: list[tuple[str, int, int, str]] = []
    if root.is_file():
        info = root.stat()
        return [(root.name, info.st_size, info.st_mtime_ns, "file")]
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    waiting.append(name)
                else:
                    kind = "file" if stat.S_ISREG(info.st_mode) else "link" if stat.S_ISLNK(info.st_mode) else "special"
                    rows.append((name, info.st_size, info.st_mtime_ns, kind))
    if not rows:
        raise StudyError(
            f"sources.{source}.path is an empty folder: there is nothing to ingest. Point it at DICOM, NIfTI or images."
        )
    return sorted(rows)
