"""Results of a study that can be made again from its sources: their size, and their removal."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.artefacts.wanted import WantedFits
from medssl.core.files import TEMPORARY_PREFIX
from medssl.core.job import Spec, paths_in
from medssl.core.layout import Layout
from medssl.core.lock import hold
from medssl.core.store import RECEIPT, Entry, Store, read_receipt

VOLUMES, ARRAYS = "volumes of ingest", "arrays of prepare"
"""Outputs of jobs: the DAG makes missing ones again and restores what depends on them from the store."""
UNUSED = "results kept for jobs that the study no longer has"
"""In the store: without them a job that is needed again runs again."""


@dataclass(frozen=True)
class Removable:
    """Files and folders of one kind, and their bytes."""

    what: str
    paths: tuple[Path, ...]
    num_bytes: int


def removable(root: Path, study: Iterable[Spec] = ()) -> list[Removable]:
    """What can be removed below the results of a study, by kind.

    Tables, encoders, models, predictions, pages, logs and receipts stay. Stored runs and fits also stay if a spec of the last run
    or of the current study file wants them. Without specs it is unknown which these are, and all stay.
    """
    specs = [*_specs(root), *study]
    wanted = {spec.hash for spec in specs}
    states = sorted((root / "state" / "pretrain").glob("*"))
    store = Store(root / "state" / "store")
    kept = list(store.entries())
    unused = [entry for entry in kept if wanted and entry.spec not in wanted]
    kinds = {
        VOLUMES: sorted((root / "1_ingest").glob("*/volumes")),
        ARRAYS: [*sorted((root / "2_prepare").glob("*/arrays")), *_places(store, kept, "prepare")],
        "caches of reduce": sorted((root / "state" / "reduce").glob("*")),
        "states of runs that the study no longer has": [
            path for path in states if wanted and not any(path.name.startswith(known) for known in wanted)
        ],
        UNUSED: [*(store.path(entry) for entry in unused if entry.stage != "prepare"), *_unused_fits(root, specs)],
        "leftovers of killed jobs": sorted(root.rglob(f"{TEMPORARY_PREFIX}*")),
    }
    found = [Removable(what, tuple(paths), _bytes(paths)) for what, paths in kinds.items()]
    return [kind for kind in found if kind.paths]


def _unused_fits(root: Path, specs: Sequence[Spec]) -> list[Path]:
    """The fits on disk that no task wants; none while a task has not yet stated which fits it wants.

    A task states it before its first fit and in its receipt, so a killed task finds its finished fits again.
    """
    said = WantedFits.said(Layout(root))
    tasks = {spec.hash for spec in specs if spec.stage == "finetune"}
    if not specs or tasks - {wanted.spec for wanted in said}:
        return []
    keys = {key for wanted in said for key in wanted.fit_keys}
    fits = sorted(path for kind in ("fits", "unfinished") for path in (root / "state" / "finetune" / kind).glob("*"))
    return [path for path in fits if path.name.partition("-")[0] not in keys and not path.name.startswith(TEMPORARY_PREFIX)]


def trained_again(root: Path, kinds: list[Removable], study: Iterable[Spec] = ()) -> list[tuple[str, str]]:
    """(stage, name) of the finished trainings that the next run of the study repeats if `kinds` are removed.

    Trainings with a stored result, and tasks whose fits are all stored, are restored once their arrays are made again with equal
    bytes.
    """
    changed = {path.parent for kind in kinds if kind.what in (VOLUMES, ARRAYS) for path in kind.paths}
    gone = {path for kind in kinds for path in kind.paths}
    store = Store(root / "state" / "store")
    kept = {(entry.stage, entry.name, entry.spec) for entry in store.entries() if store.path(entry) not in gone}
    receipts = [path for folder in ("4_pretrain", "5_finetune") for path in sorted((root / folder).rglob(RECEIPT))]
    finished = {
        path.parent: (receipt["stage"], receipt["name"])
        for path in receipts
        if (receipt := read_receipt(path)) is not None and (receipt["stage"], receipt["name"], receipt["spec"]) not in kept
    }
    specs = [*_specs(root), *study]
    if not specs:
        return list(finished.values()) if changed else []
    reads = {Path(spec.out): {Path(path).parent for path in paths_in(spec)} for spec in specs}
    while more := {out for out, folders in reads.items() if out not in changed and folders & changed}:
        changed |= more
    again = {folder: job for folder, job in finished.items() if folder in changed}
    encoders = {folder for folder, (stage, _) in again.items() if stage == "pretrain"}
    restored = {folder for folder in again if _keeps_its_fits(root, folder, gone) and not reads.get(folder, set()) & encoders}
    return [job for folder, job in again.items() if folder not in restored]


def _keeps_its_fits(root: Path, task: Path, gone: set[Path]) -> bool:
    """Whether every fit of a finished task stays on disk: the task then makes its tables again, but no fit."""
    keys = (read_receipt(task / RECEIPT) or {}).get("fit_keys", [])
    fits = [root / "state" / "finetune" / "fits" / key for key in keys]
    return bool(fits) and all((fit / "fit.json").is_file() and fit not in gone for fit in fits)


def remove(root: Path, kinds: list[Removable]) -> None:
    """Remove them while no other program works on the study.

    Raises:
        LockedError: another program works on it.
    """
    with hold(root / ".lock"):
        for path in (path for kind in kinds for path in kind.paths):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _places(store: Store, entries: list[Entry], stage: str) -> list[Path]:
    return [store.path(entry) for entry in entries if entry.stage == stage]


def _specs(root: Path) -> list[Spec]:
    return [Spec.read(path) for path in sorted((root / "specs").rglob("*.json"))]


def _bytes(paths: list[Path]) -> int:
    """Bytes that removing these files and folders would free, without links and files that have another name elsewhere."""
    names: dict[tuple[int, int], int] = {}
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for path in paths:
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file() and not file.is_symlink() and not path.is_symlink():
                info = file.stat()
                place = (info.st_dev, info.st_ino)
                names[place] = names.get(place, 0) + 1
                sizes[place] = (info.st_size, info.st_nlink)
    return sum(size for place, (size, links) in sizes.items() if names[place] == links)
