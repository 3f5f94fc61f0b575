"""The files of a source, and the ids that stand for names that must not be seen."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from pathlib import Path

from medssl.core.errors import StudyError, did_you_mean
from medssl.core.files import write_text
from medssl.core.layout import PRIVATE


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


def key_of(source: str, key: bytes) -> bytes:
    """The key of ids made of file names: `slice_1.png` of two sources are two pictures.

    Ids of series and patients that DICOM or a label table states take `key` itself, so that they are equal in all sources.
    """
    return hmac.new(key, f"source\x1f{source}".encode(), hashlib.sha256).digest()


Listed = tuple[str, int, int, str]
"""Relative name, size in bytes, time of the last change in ns, kind: `file`, `link` or `special`."""
Stamped = tuple[Listed, int]


def read(path: Path | str) -> list[Listed]:
    """The rows of a private listing file."""
    with open(path, encoding="utf-8") as file:
        return [tuple(json.loads(line)) for line in file]


def beside(path: Path) -> str:
    """A hint at a name beside a path that leads nowhere, where one is like it."""
    folder = path.resolve().parent
    hint = did_you_mean(path.name, [entry.name for entry in folder.iterdir()]) if folder.is_dir() else ""
    return hint if "Did you mean" in hint else ""


def nothing_at(path: str) -> str:
    """That a path leads nowhere, with what was tried and what lies near it."""
    return f"there is nothing at {path!r} (tried {Path(path).resolve()}).{beside(Path(path))}"


def walk(source: str, path: str) -> list[Listed]:
    """Every entry below `path` as (relative name, size, mtime_ns, kind), sorted; kind is `file`, `link` or `special`.

    Links are not followed. A single file lists as itself.

    Raises:
        StudyError: nothing is there.
    """
    return [row for row, _ in stamped(source, path)]


def stamped(source: str, path: str) -> list[Stamped]:
    """The rows of `walk`, each with the time in ns when content, name or rights were changed, which nobody can set.

    Raises:
        StudyError: nothing is there.
    """
    root = Path(path)
    if not root.exists():
        raise StudyError(
            f"sources.{source}.path does not exist (tried {root.resolve()}).{beside(root)} Correct the path in the study file; "
            "it is relative to where snakemake runs."
        )
    rows: list[Stamped] = []
    if root.is_file():
        info = root.stat()
        return [((root.name, info.st_size, info.st_mtime_ns, "file"), info.st_ctime_ns)]
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
                    rows.append(((name, info.st_size, info.st_mtime_ns, kind), info.st_ctime_ns))
    if not rows:
        raise StudyError(
            f"sources.{source}.path is an empty folder: there is nothing to ingest. Point it at DICOM, NIfTI or images."
        )
    return sorted(rows)
