"""What is made already and need not be made again: results of jobs by what they were made of, as hard links beside the results.

An entry is a folder `<key[:2]>/<key>` with the outputs of one job and its receipt, which is written last. A link takes no room as
long as the result itself is there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.core.files import TEMPORARY_PREFIX, inside, read_json, sha256_file, write_json, writing

RECEIPT = "receipt.json"


@dataclass(frozen=True)
class Entry:
    """One kept result: the job that made it, and the bytes that only the store still holds."""

    key: str
    stage: str
    name: str
    spec: str
    num_bytes: int


@dataclass(frozen=True)
class Store:
    """Kept results below a folder; several studies may share one."""

    folder: Path

    def has(self, key: str) -> bool:
        """Whether the result of this key is kept whole."""
        return self._whole(key) is not None

    def keep(self, key: str, source: Path, receipt: dict[str, Any]) -> None:
        """Keep the outputs that a receipt lists, linked from `source`; what was kept under the key before is replaced."""
        target = self._at(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{target.name}")
        shutil.rmtree(part, ignore_errors=True)
        for name in receipt["outputs"]:
            link(inside(source, name), inside(part, name))
        write_json(part / RECEIPT, receipt)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)

    def restore(self, key: str, target: Path) -> dict[str, Any] | None:
        """Link the outputs of a kept result into `target`; its receipt, or None where it is not sound."""
        receipt = self.sound(key)
        for name in receipt["outputs"] if receipt else ():
            link(inside(self._at(key), name), inside(target, name))
        return receipt

    def sound(self, key: str) -> dict[str, Any] | None:
        """The receipt of a kept result all of whose bytes are as it states; None where there is none."""
        receipt, source = self._whole(key), self._at(key)
        if receipt is None:
            return None
        same = (sha256_file(inside(source, name)) == entry["sha256"] for name, entry in receipt["outputs"].items())
        return receipt if all(same) else None

    def entries(self) -> Iterator[Entry]:
        """All whole entries, by key."""
        for path in sorted(self.folder.glob(f"??/*/{RECEIPT}")):
            receipt = read_receipt(path)
            if receipt is None:
                continue
            files = [inside(path.parent, name) for name in receipt["outputs"]]
            alone = sum(file.stat().st_size for file in files if file.is_file() and file.stat().st_nlink == 1)
            yield Entry(path.parent.name, receipt["stage"], receipt["name"], receipt["spec"], alone)

    def path(self, entry: Entry) -> Path:
        """The folder of an entry."""
        return self._at(entry.key)

    def _at(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _whole(self, key: str) -> dict[str, Any] | None:
        """The receipt of an entry all of whose files have the size that it states."""
        folder = self._at(key)
        if not (folder / RECEIPT).is_file():
            return None
        receipt = read_receipt(folder / RECEIPT)
        if receipt is None:
            return None
        for name, entry in receipt["outputs"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != entry["size"]:
                return None
        return receipt


def read_receipt(path: Path) -> dict[str, Any] | None:
    """The receipt in a file; None where the file is damaged: its job runs again."""
    try:
        receipt = read_json(path)
    except ValueError:  # cut short, emptied or not text
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
