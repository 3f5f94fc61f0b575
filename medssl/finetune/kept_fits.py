"""Finished fits on disk, each under the key of what it depends on: kept after the job, so that none is computed twice.

A fit is a folder `<key>` with `fit.json`, `predicted.npy`, `masks/<case_id>.nii.gz` and `model.safetensors`, as far as it has
them; it is moved into place complete.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.files import TEMPORARY_PREFIX, inside, read_json, sha256_file, write_json, writing
from medssl.core.store import link

FACTS, PREDICTED, MODEL = "fit.json", "predicted.npy", "model.safetensors"


@dataclass(frozen=True)
class Kept:
    """A finished fit: `facts` is its report for fits.tsv, `curve` steps, loss and validation score."""

    folder: Path
    facts: dict[str, Any]
    curve: list[list[Any]]
    has_network: bool
    sha256: dict[str, str]

    @property
    def val_score(self) -> float:
        """The validation score, −∞ if there is none."""
        score = self.facts.get("val_score")
        return -math.inf if score is None else float(score)

    @property
    def predicted(self) -> np.ndarray | None:
        """The predictions from which the task makes rows."""
        return np.load(self.folder / PREDICTED, allow_pickle=False) if PREDICTED in self.sha256 else None

    @property
    def masks(self) -> list[Path]:
        """The masks of the test cases."""
        return [self.folder / name for name in sorted(self.sha256) if name.startswith("masks/")]

    def link_model(self, target: Path) -> bool:
        """Hard-link the weights, so that they survive `drop_model` by any task; False if they are gone."""
        try:
            link(self.folder / MODEL, target)
        except FileNotFoundError:
            return False
        if sha256_file(target) == self.sha256.get(MODEL):
            return True
        target.unlink()
        return False

    def drop_model(self) -> None:
        """Delete the weights; a task's link to them stays."""
        (self.folder / MODEL).unlink(missing_ok=True)


@dataclass(frozen=True)
class KeptFits:
    """The finished fits of a study, below a folder."""

    folder: Path

    def find(self, key: str) -> Kept | None:
        """The fit of a key, if it is complete; only its weights may be missing."""
        folder = self.folder / key
        if not (folder / FACTS).is_file():
            return None
        try:
            stated = read_json(folder / FACTS)
        except ValueError:  # cut short or emptied: the fit is repeated
            return None
        sha256 = dict(stated["sha256"])
        for name, digest in sha256.items():
            path = inside(folder, name)
            if name != MODEL and not (path.is_file() and sha256_file(path) == digest):
                return None
        return Kept(folder, dict(stated["facts"]), list(stated["curve"]), bool(stated["has_network"]), sha256)

    def holds(self, key: str) -> bool:
        """Whether a key has a folder, complete or not."""
        return (self.folder / key).is_dir()

    @contextlib.contextmanager
    def adding(self, key: str) -> Iterator[Path]:
        """A folder for the files of a fit, the last of which `describe` writes; it becomes the fit's when the block ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{TEMPORARY_PREFIX}{os.getpid()}-{key}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            yield part
            self._put(part, key)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _put(self, part: Path, key: str) -> None:
        """Move a complete fit into place; if an equal one exists, which another task may be reading, add only what it lacks."""
        folder, there = self.folder / key, self.find(key)
        if there is not None and _without_model(there.sha256) == _without_model(read_json(part / FACTS)["sha256"]):
            if (part / MODEL).is_file():
                os.replace(part / MODEL, folder / MODEL)
                os.replace(part / FACTS, folder / FACTS)
            return
        aside = part.with_name(f"{part.name}-old")
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder, aside)
        try:
            os.replace(part, folder)
        except OSError:
            if not (folder / FACTS).is_file():  # otherwise another task has just finished the same fit
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _without_model(sha256: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in sha256.items() if name != MODEL}


def keep_array(folder: Path, predicted: np.ndarray) -> None:
    """Save the predictions of a fit, in a folder of `adding`."""
    with writing(folder / PREDICTED) as temporary, open(temporary, "wb") as file:
        np.save(file, predicted, allow_pickle=False)


def describe(folder: Path, facts: dict[str, Any], curve: list[Any], *, has_network: bool) -> None:
    """Write the report of a fit, and the hashes of its files; numbers that are not finite become null."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / FACTS,
        {
            "facts": {name: _finite(value) for name, value in facts.items()},
            "curve": [[_finite(value) for value in row] for row in curve],
            "has_network": has_network,
            "sha256": {path.relative_to(folder).as_posix(): sha256_file(path) for path in files},
        },
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
