"""What of a study's results can be made again from its sources, how much room it takes, and taking it away."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from medssl.core.files import TEMPORARY_PREFIX, read_json
from medssl.core.job import Spec, hold
from medssl.core.store import RECEIPT, Entry, Store

VOLUMES, ARRAYS = "volumes of ingest", "arrays of prepare"
"""Outputs of jobs: where they are gone the DAG makes them again; what rests on them is restored from the store."""
UNUSED = "results kept for jobs that the study no longer has"
"""In the store: where they are gone, a job that returns runs again."""


@dataclass(frozen=True)
class Removable:
    """Files and folders of one kind, and the bytes they hold."""

    what: str
    paths: tuple[Path, ...]
    num_bytes: int


def removable(root: Path) -> list[Removable]:
    """What can go below the results of a study, kind by kind.

    Tables, encoders, models, predictions, pages, logs and receipts stay, and so does what is kept of runs and fits that the specs
    still want; without specs nobody knows which these are, and all of it stays.
    """
    wanted = {spec.hash for spec in _specs(root)}
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
        UNUSED: [store.path(entry) for entry in unused if entry.stage != "prepare"],
        "leftovers of killed jobs": sorted(root.rglob(f"{TEMPORARY_PREFIX}*")),
    }
    found = [Removable(what, tuple(paths), _bytes(paths)) for what, paths in kinds.items()]
    return [kind for kind in found if kind.paths]


def trained_again(root: Path, kinds: list[Removable]) -> list[tuple[str, str]]:
    """(stage, name) of the finished trainings whose result the store will not hold once `kinds` are gone.

    When the arrays they rest on are made again with equal bytes, the others are restored.
    """
    gone = {path for kind in kinds for path in kind.paths}
    if not any(kind.what in (VOLUMES, ARRAYS) for kind in kinds):
        return []
    store = Store(root / "state" / "store")
    kept = {(entry.stage, entry.name, entry.spec) for entry in store.entries() if store.path(entry) not in gone}
    finished = [read_json(path) for folder in ("4_pretrain", "5_finetune") for path in sorted((root / folder).rglob(RECEIPT))]
    jobs = [(receipt["stage"], receipt["name"], receipt["spec"]) for receipt in finished]
    return [(stage, name) for stage, name, spec in jobs if (stage, name, spec) not in kept]


def remove(root: Path, kinds: list[Removable]) -> None:
    """Take them away while nobody works on the study.

    Raises:
        LockedError: somebody does.
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
    return [Spec.of(read_json(path)) for path in sorted((root / "specs").rglob("*.json"))]


def _bytes(paths: list[Path]) -> int:
    """Room on disk that these files and folders would free: not links, nor files that have another name elsewhere."""
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
