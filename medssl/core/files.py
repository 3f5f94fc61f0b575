"""Files written all or nothing, paths that stay inside their root, hashes of content."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medssl.core.errors import DiskFullError, StudyError

TEMPORARY_PREFIX = ".tmp-"


@contextlib.contextmanager
def writing(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success sync it and rename it into place, otherwise remove it.

    A reader sees the old file or the whole new one, even after kill -9 or a power cut.

    Raises:
        DiskFullError: no space is left; the old file stays as it was.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{target.name}"
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, target)
        sync(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free_mb = shutil.disk_usage(target.parent).free / 1e6
            raise DiskFullError(
                f"no room to write {target.name} in {target.parent}: {error.strerror}, {free_mb:.0f} MB free. "
                "Nothing was changed; free some space and run the same command again."
            ) from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write_json(target: Path | str, value: Any) -> None:
    """Write `value` as sorted, indented JSON, all or nothing."""
    write_text(target, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(target: Path | str, text: str) -> None:
    """Write `text` as UTF-8, all or nothing."""
    with writing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_if_changed(target: Path | str, text: str) -> bool:
    """Write `text` unless the file already holds it; True if it was written (so that time stamps mean change)."""
    target = Path(target)
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        return False
    write_text(target, text)
    return True


def read_json(path: Path | str) -> Any:
    """The value in a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def canonical_json(value: Any) -> str:
    """The one text of a value, for hashing: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_text(text: str) -> str:
    """SHA-256 of a text, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(root: Path | str, *parts: str) -> Path:
    """`root` joined with `parts`, refused if the result leaves `root`.

    Raises:
        StudyError: the joined path is outside `root` (an absolute part, `..`, or a link that leads out).
    """
    base = Path(root).resolve()
    joined = base.joinpath(*parts).resolve()
    if not joined.is_relative_to(base):
        raise StudyError("a path leaves its folder: every artefact must stay below its root. Rename the study or source.")
    return joined


def folder_to_write(path: Path) -> Path:
    """`path`, a folder that a user chose for results, created if missing.

    Raises:
        StudyError: it cannot be a folder for results.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"{path} cannot be the folder to write to ({error.strerror}). Name a folder, or one that can be made."
        ) from None
    return path


def file_to_write(path: Path) -> Path:
    """`path`, a file that a user chose for a result, with its folder created.

    Raises:
        StudyError: it cannot be written.
    """
    if path.is_dir():
        raise StudyError(f"{path} is a folder, expected the file to write. Name a file in it.")
    folder_to_write(path.parent)
    return path


def refuse_existing(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse to replace files unless `overwrite` is given.

    Raises:
        StudyError: some of them exist.
    """
    existing = [path for path in paths if os.path.lexists(path)]
    if existing and not overwrite:
        raise StudyError(
            f"{existing[0].parent} holds {', '.join(path.name for path in existing)} already. Name another place, or replace "
            f"{'it' if len(existing) == 1 else 'them'} with --overwrite."
        )


@contextlib.contextmanager
def writing_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder within `target`; on success its files are moved there, and otherwise it is removed.

    Raises:
        StudyError: a file of the same name exists, and `overwrite` is off; nothing was moved.
    """
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder_to_write(target)) as temporary:
        yield Path(temporary)
        made = sorted(Path(temporary).iterdir())
        refuse_existing([target / path.name for path in made], overwrite=overwrite)
        for path in made:
            os.replace(path, target / path.name)


def refuse_within(path: Path, source: Path) -> None:
    """Refuse an output file that lies inside the source or is the source: it could overwrite an image.

    Raises:
        StudyError: it lies there.
    """
    if path.resolve().is_relative_to(source.resolve()):
        raise StudyError(f"{path} lies within {source}, which is read. Name a file elsewhere.")


def sweep(folder: Path) -> None:
    """Remove temporaries that a killed process left in `folder` and below."""
    if folder.is_dir():
        for leftover in folder.rglob(f"{TEMPORARY_PREFIX}*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def require_free_space(folder: Path, need_bytes: int) -> None:
    """Stop before the work if the disk cannot hold its result.

    Raises:
        DiskFullError: less than `need_bytes` (plus 5 %) is free at `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < need_bytes * 1.05:
        raise DiskFullError(
            f"{folder} needs {need_bytes * 1.05 / 1e6:.0f} MB and has {free / 1e6:.0f} MB free. "
            "Free some space, or set `output` in the study file to a larger disk."
        )


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
