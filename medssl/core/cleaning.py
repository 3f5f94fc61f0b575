"""What of a study's results can be made again from its sources, how much room it takes, and taking it away."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from medssl.core.files import TEMPORARY_PREFIX, read_json
from medssl.core.job import Spec, hold


@dataclass(frozen=True)
class Removable:
    """Files and folders of one kind, and the bytes they hold."""

    what: str
    paths: tuple[Path, ...]
    num_bytes: int


def removable(root: Path) -> list[Removable]:
    """What can go below the results of a study, kind by kind.

    Tables, encoders, models, predictions, pages, logs and receipts stay, and so does the state of runs that the specs still want.
    """
    wanted = {Spec(**read_json(path)).hash for path in sorted((root / "specs").rglob("*.json"))}
    states = [path for stage in ("pretrain", "finetune") for path in sorted((root / "state" / stage).glob("*"))]
    kinds = {
        "volumes of ingest": sorted((root / "1_ingest").glob("*/volumes")),
        "arrays of prepare": sorted((root / "2_prepare").glob("*/arrays")),
        "caches of reduce": sorted((root / "state" / "reduce").glob("*")),
        "states of runs that the study no longer has": [p for p in states if not any(p.name.startswith(h) for h in wanted)],
        "leftovers of killed jobs": sorted(root.rglob(f"{TEMPORARY_PREFIX}*")),
    }
    found = [Removable(what, tuple(paths), sum(map(_bytes, paths))) for what, paths in kinds.items()]
    return [kind for kind in found if kind.paths]


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


def _bytes(path: Path) -> int:
    """Room on disk of a file or of all below a folder; links count for nothing."""
    if path.is_symlink():
        return 0
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
