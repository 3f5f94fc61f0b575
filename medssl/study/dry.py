"""A dry run plans with the files that a real run would write, and takes them back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from medssl.core.errors import LockedError
from medssl.core.job import hold
from medssl.core.layout import PRIVATE, Layout


@contextlib.contextmanager
def leaving_nothing(layout: Layout) -> Iterator[None]:
    """Inside, specs and listings may be written; afterwards they are what they were, times included.

    Raises:
        LockedError: somebody works on the study, and would be disturbed.
    """
    lock = layout.root / ".lock"
    with contextlib.ExitStack() as stack:
        if lock.is_file():
            try:
                stack.enter_context(hold(lock))
            except LockedError as error:
                raise LockedError(f"{error} A dry run writes specs for a moment, which would disturb it.") from None
        folders = [layout.root / "specs", layout.root / "sources", PRIVATE]
        before = {path: (path.read_bytes(), path.stat()) for folder in folders for path in _files(folder)}
        there = {path for path in (*layout.root.parents, layout.root, *folders) if path.exists()}
        there |= {path for folder in folders for path in folder.rglob("*") if path.is_dir()}
        try:
            yield
        finally:
            _restore(before, folders)
            _remove_empty([*folders, layout.root, *layout.root.parents], there)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _restore(before: dict[Path, tuple[bytes, os.stat_result]], folders: list[Path]) -> None:
    for path in (path for folder in folders for path in _files(folder)):
        if path not in before:
            path.unlink()
    for path, (content, info) in before.items():
        if not path.is_file() or path.stat().st_mtime_ns != info.st_mtime_ns:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(info.st_mode)
            os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def _remove_empty(folders: list[Path], there: set[Path]) -> None:
    """Folders that were not there before, the deepest first."""
    for folder in folders:
        deepest_first = sorted((path for path in folder.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
        for path in (*deepest_first, folder):
            if path not in there and path != Path():
                with contextlib.suppress(OSError):  # not empty, or never made
                    path.rmdir()
