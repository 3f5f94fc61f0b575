"""A dry run plans with the files that a real run would write, then removes them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from medssl.core import signals
from medssl.core.errors import LockedError
from medssl.core.files import TEMPORARY_PREFIX
from medssl.core.layout import PRIVATE, Layout
from medssl.core.lock import hold
from medssl.core.receipts import incomplete
from medssl.core.store import link

KEY = PRIVATE / "id_key"


@contextlib.contextmanager
def leaving_nothing(layout: Layout) -> Iterator[None]:
    """Inside, specs and listings may be written (as whole files) and incomplete receipts removed. Afterwards all files are as
    before, with their times.

    This also holds if a signal other than SIGKILL ends the process.

    Raises:
        LockedError: another program works on the study.
    """
    lock, here = layout.root / ".lock", Path.cwd()  # with --directory, Snakemake has left it when the program ends
    with contextlib.ExitStack() as stack:
        if lock.is_file():
            try:
                stack.enter_context(hold(lock))
            except LockedError as error:
                raise LockedError(f"{error} A dry run writes specs for a moment, which would disturb it.") from None
        own = PRIVATE / layout.root.name  # other studies may be running
        cache = PRIVATE / "code"  # lost entries are computed again
        folders = [layout.root / "specs", layout.root / "sources", own, cache]
        parents = [layout.root, *layout.root.parents, PRIVATE]
        no_key = not KEY.is_file()
        there = {folder for folder in (*folders, *parents) if folder.is_dir()}
        there |= {path for folder in folders for path in folder.rglob("*") if path.is_dir()}
        beside = [place / f"{TEMPORARY_PREFIX}dry-{os.getpid()}" for place in (layout.root, PRIVATE)]
        before: dict[Path, Path] | None = None  # nothing changes until all files have a second name
        stack.enter_context(signals.unwound())
        try:
            receipts = [receipt for receipt, _ in incomplete(layout.root)]
            results = [*_all_files(folders[:2]), *receipts]
            before = _names_kept(results, beside[0]) | _names_kept(_all_files([own, cache]), beside[1])
            yield
        finally:
            with signals.ignored(), contextlib.chdir(here):
                if before is not None:
                    _restore(before, folders)
                for names in beside:
                    shutil.rmtree(names, ignore_errors=True)
                if no_key and not [path for path in PRIVATE.glob("*") if path not in (KEY, own, cache)]:
                    KEY.unlink(missing_ok=True)  # no other program has made ids with it
                _remove_empty(folders, parents, there)


def _names_kept(files: list[Path], beside: Path) -> dict[Path, Path]:
    """A second name (hard link) for every file, from which it is restored; nothing is copied."""
    kept = {path: beside / str(number) for number, path in enumerate(files)}
    for path, name in kept.items():
        link(path, name)
    return kept


def _restore(before: dict[Path, Path], folders: list[Path]) -> None:
    for path in _all_files(folders):
        if path not in before:
            path.unlink()
    for path, name in before.items():
        if not path.is_file() or not path.samefile(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(name, path)


def _all_files(folders: list[Path]) -> list[Path]:
    found = (path for folder in folders for path in sorted(folder.rglob("*")))
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _remove_empty(folders: list[Path], parents: list[Path], there: set[Path]) -> None:
    """The folders that are new, the deepest first."""
    new = [path for folder in folders for path in (folder, *folder.rglob("*")) if path.is_dir() and path not in there]
    for path in (*sorted(new, key=lambda path: -len(path.parts)), *(path for path in parents if path not in there)):
        with contextlib.suppress(OSError):  # not empty, or never made
            path.rmdir()
