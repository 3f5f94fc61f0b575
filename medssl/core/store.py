"""Results of finished jobs, kept beside the results under a hash of their inputs, so that they need not be computed again.

An entry is a folder `<key[:2]>/<key>` with the outputs of one job and its receipt, which is written last. Writing into a
result must not change the kept files. Tables and encoders, in a job's own folder, are kept as copies, because Snakemake runs
no job whose outputs are write-protected. Arrays, masks and models, in folders below, are many and large. They are hard links
to the same bytes, which take no space, and write-protected. Root can still write, so all bytes are hashed before a restore.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.core.files import TEMPORARY_PREFIX, inside, read_json, sha256_file, write_json, writing

RECEIPT = "receipt.json"
READ_ONLY = 0o444


@dataclass(frozen=True)
class Entry:
    """One kept result: the job that made it."""

    key: str
    stage: str
    name: str
    spec: str


@dataclass(frozen=True)
class Store:
    """Kept results below a folder; several studies may share one."""

    folder: Path

    def keep(self, key: str, source: Path, receipt: dict[str, Any]) -> None:
        """Keep the outputs that a receipt lists, below `source`; replaces what the key held before."""
        target = self._at(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{target.name}")
        shutil.rmtree(part, ignore_errors=True)
        for name in receipt["outputs"]:
            _give(inside(source, name), inside(part, name), name)
        write_json(part / RECEIPT, receipt)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)

    def find(self, key: str) -> Kept | None:
        """The entry of a key, with every byte verified; None if there is none."""
        folder = self._at(key)
        if not folder.is_dir():
            return None
        receipt = read_receipt(folder / RECEIPT)
        if receipt is None:
            return Kept(folder, {}, (RECEIPT,))
        changed = [name for name, entry in receipt["outputs"].items() if not _is_as_stated(inside(folder, name), entry)]
        return Kept(folder, receipt, tuple(changed))

    def entries(self) -> Iterator[Entry]:
        """All entries, by key."""
        for path in sorted(self.folder.glob(f"??/*/{RECEIPT}")):
            receipt = read_receipt(path)
            if receipt is None:
                continue
            yield Entry(path.parent.name, receipt["stage"], receipt["name"], receipt["spec"])

    def path(self, entry: Entry) -> Path:
        """The folder of an entry."""
        return self._at(entry.key)

    def _at(self, key: str) -> Path:
        return self.folder / key[:2] / key


@dataclass(frozen=True)
class Kept:
    """A kept result: its receipt, and the files that no longer match it."""

    folder: Path
    receipt: dict[str, Any]
    changed: tuple[str, ...]

    def restore(self, target: Path) -> None:
        """Put its outputs into `target`."""
        for name in self.receipt["outputs"]:
            _give(inside(self.folder, name), inside(target, name), name)


def _give(source: Path, target: Path, name: str) -> None:
    """Copy a file of a job's own folder; hard-link a file in a folder below, write-protected."""
    if "/" not in name:
        with writing(target) as temporary:
            shutil.copyfile(source, temporary)
        return
    link(source, target)
    with contextlib.suppress(PermissionError):  # belongs to another user: writing to it is that user's business
        target.chmod(READ_ONLY)


def _is_as_stated(path: Path, entry: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["size"] and sha256_file(path) == entry["sha256"]


def read_receipt(path: Path) -> dict[str, Any] | None:
    """The receipt in a file; None if it is missing or damaged, and then its job runs again."""
    try:
        receipt = read_json(path)
    except (FileNotFoundError, ValueError):  # cut short, emptied or not text
        return None
    return receipt if isinstance(receipt, dict) and {"outputs", "stage", "name", "spec"} <= set(receipt) else None


def link(source: Path, target: Path) -> bool:
    """Give a file a second name (no bytes are copied), or copy it where the file system cannot; True if linked."""
    linked = True
    with writing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            linked = False
    return linked
