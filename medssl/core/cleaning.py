"""What of a study's results can be made again from its sources, how much room it takes, and taking it away."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from medssl.core.files import TEMPORARY_PREFIX, read_json
from medssl.core.job import RECEIPT, Spec, hold, paths_in

VOLUMES, ARRAYS = "volumes of ingest", "arrays of prepare"
"""Outputs of jobs: where they are gone the DAG makes them again, and everything that rests on them."""


@dataclass(frozen=True)
class Removable:
    """Files and folders of one kind, and the bytes they hold."""

    what: str
    paths: tuple[Path, ...]
    num_bytes: int


def removable(root: Path) -> list[Removable]:
    """What can go below the results of a study, kind by kind.

    Tables, encoders, models, predictions, pages, logs and receipts stay, and so does the state of runs that the specs still want;
    without specs nobody knows which these are, and every state stays.
    """
    wanted = {spec.hash for spec in _specs(root)}
    states = [path for stage in ("pretrain", "finetune") for path in sorted((root / "state" / stage).glob("*"))]
    kinds = {
        VOLUMES: sorted((root / "1_ingest").glob("*/volumes")),
        ARRAYS: sorted((root / "2_prepare").glob("*/arrays")),
        "caches of reduce": sorted((root / "state" / "reduce").glob("*")),
        "states of runs that the study no longer has": [
            path for path in states if wanted and not any(path.name.startswith(known) for known in wanted)
        ],
        "leftovers of killed jobs": sorted(root.rglob(f"{TEMPORARY_PREFIX}*")),
    }
    found = [Removable(what, tuple(paths), sum(map(_bytes, paths))) for what, paths in kinds.items()]
    return [kind for kind in found if kind.paths]


def trained_again(root: Path, kinds: list[Removable]) -> list[tuple[str, str]]:
    """(stage, name) of the finished trainings that the next run of the study makes again once `kinds` are gone."""
    changed = {path.parent for kind in kinds if kind.what in (VOLUMES, ARRAYS) for path in kind.paths}
    finished = {
        path.parent: (receipt["stage"], receipt["name"])
        for folder in ("4_pretrain", "5_finetune")
        for path in sorted((root / folder).rglob(RECEIPT))
        if (receipt := read_json(path))
    }
    specs = _specs(root)
    if not specs:
        return list(finished.values()) if changed else []
    reads = {Path(spec.out): {Path(path).parent for path in paths_in(spec.inputs)} for spec in specs}
    while more := {out for out, folders in reads.items() if out not in changed and folders & changed}:
        changed |= more
    return [job for folder, job in finished.items() if folder in changed]


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


def _specs(root: Path) -> list[Spec]:
    return [Spec(**read_json(path)) for path in sorted((root / "specs").rglob("*.json"))]


def _bytes(path: Path) -> int:
    """Room on disk of a file or of all below a folder; links count for nothing."""
    if path.is_symlink():
        return 0
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
