"""Stage finetune: from starting weights and few labels to predictions, for every starting point under one recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch

from medssl.core import plugins, tables
from medssl.core.errors import PreemptedError
from medssl.core.files import canonical_json, read_json, sha256_file, sha256_text, write_json, writing
from medssl.core.job import RECEIPT, Job
from medssl.finetune.fitting import ClassificationWork, SegmentationWork, Work
from medssl.finetune.plan import Fit, plan
from medssl.finetune.predicting import Model, class_volumes, device, masks, probability_table
from medssl.finetune.predictions import of_fit, split_rows
from medssl.finetune.recipe import Recipe
from medssl.finetune.starting import Starting
from medssl.nn.weights import save_encoder
from medssl.volume.geometry import shear_deg

SQUARE_DEG = 0.01
"""Axes that are this near to right angles are square: the rounding of a header in float32 is far below."""


def run(job: Job) -> None:
    """Make every fit of a task that is not yet made, then join their predictions.

    Raises:
        StudyError: the source has no labels, an encoder does not fit it; with what to do.
        PreemptedError: stopped by a signal; finished fits are kept.
    """
    torch.set_num_threads(job.threads)
    with _stops_with_a_sentence():
        state = _run(job)
    shutil.rmtree(state.folder, ignore_errors=True)


def _run(job: Job) -> State:
    settings = job.spec.settings
    task = plugins.find("task", settings["task"]).load()(**settings["options"])
    starting = Starting.read(job)
    state = State(Path(job.spec.layout.state("finetune", f"{job.spec.hash}-{_inputs_hash(job, starting)}")))
    recipe = Recipe(**{field.name: settings[field.name] for field in dataclasses.fields(Recipe)})
    kind = SegmentationWork if settings["task"] == "segmentation" else ClassificationWork
    work = kind(job, task, starting, recipe, device(settings["device"]))
    fits = plan(starting.starts, settings["modes"], work.shares, settings["seeds"])
    waiting = [fit for fit in fits if not state.has(fit)]
    job.log(f"{len(fits)} fits, {len(fits) - len(waiting)} already made; {work.described}")
    with job.progress("", len(fits), "fits") as bar:
        bar.advance(len(fits) - len(waiting))
        for fit in waiting:
            make(work, fit, state)
            bar.advance(note=fit.id)
    finish(work, fits, state)
    job.notes |= {"device": str(work.device), "fits": len(fits), "resumed_fits": len(fits) - len(waiting)}
    job.write_receipt()
    return state


def predict(
    model: Path, samples: Path, volumes: Path, out: Path, *, ingested: Path | None = None, threads: int = 1
) -> list[Path]:
    """Apply a fine-tuned model to a prepared source: a table of probabilities, or masks on the grids of the given images.

    Args:
        model: folder with `model.safetensors` and `contract.json`.
        samples, volumes: tables of the prepare stage; prepared as the contract's `prepare` says.
        out: `probabilities.tsv`, or `masks.tsv` and `masks/<volume_id>.nii.gz`, are written here.
        ingested: ingest's folder `volumes/`, which knows the source grids; without it masks are on the prepared grid.
        threads: of the processor.

    Returns:
        the files written.

    Raises:
        StudyError: no model of medssl there, or the source has other channels or windows than the model learnt from.
    """
    torch.set_num_threads(threads)
    fitted = Model.open(model)
    if fitted.contract["task"] == "classification":
        table = probability_table(fitted, samples, volumes)
        tables.write_tsv(out / "probabilities.tsv", table)
        return [out / "probabilities.tsv"]
    rows: list[dict[str, Any]] = []
    for name, mask, affine in masks(fitted, samples, volumes, ingested):
        write_nifti(out / "masks" / f"{name}.nii.gz", mask, affine)
        rows += class_volumes(name, mask, affine, fitted.contract)
    tables.write_tsv(out / "masks.tsv", pd.DataFrame(rows))
    return [*(out / path for path in dict.fromkeys(row["mask"] for row in rows)), out / "masks.tsv"]


def make(work: Work, fit: Fit, state: State) -> None:
    """Make one fit and keep it."""
    start_s = time.monotonic()
    train = work.subsets[fit.seed, fit.share]
    rows, fitted = work.fit(fit, train, lambda case, *mask: write_nifti(state.mask(fit, case), *mask))
    facts = work.facts(fit, train) | fitted.facts | {"network": fitted.network is not None}
    competing = work.competing(fit)
    if fitted.network is not None and competing:
        save_encoder(state.at(fit, "model.safetensors"), fitted.network)
    predictions = of_fit(rows, fit, work.fraction(fit.share), len(train))
    state.save(fit, predictions, facts | {"seconds": round(time.monotonic() - start_s, 3)}, fitted.curve)
    if competing:
        state.drop_worse_models(competing)


def finish(work: Work, fits: list[Fit], state: State) -> None:
    """Write the masks of every fit beside the given ones, the tables, and the best model of each starting point."""
    job = work.job
    for case, *mask in work.references():
        path = job.path("masks", "reference", f"{case}.nii.gz")
        write_nifti(path, *mask)
        job.wrote(path)
        for fit in fits:
            path = job.path("masks", fit.id, f"{case}.nii.gz")
            _copy(state.mask(fit, case), path)
            job.wrote(path)
    _write_tables(work, fits, state)
    for start in work.starting.starts:
        best = state.best([fit for fit in fits if fit.start == start and fit.share == work.shares[-1]])
        if best is not None:
            model, contract = (job.path("models", start.run, name) for name in ("model.safetensors", "contract.json"))
            _copy(state.at(best, "model.safetensors"), model)
            write_json(contract, work.contract(best, state.facts(best)))
            job.wrote(model, contract)


def _write_tables(work: Work, fits: list[Fit], state: State) -> None:
    job = work.job
    tables.write_parquet(job.path("predictions.parquet"), pd.concat([state.predictions(fit) for fit in fits], ignore_index=True))
    tables.write_tsv(job.path("fits.tsv"), fits_table([state.facts(fit) for fit in fits]))
    curves = [(fit.id, *row) for fit in fits for row in state.curve(fit)]
    tables.write_tsv(job.path("curves.tsv"), pd.DataFrame(curves, columns=["fit_id", "step", "loss", "val_score"]))
    chosen = {(seed, work.fraction(share)): train for (seed, share), train in work.subsets.items()}
    tables.write_parquet(job.path("splits.parquet"), split_rows(work.cases, work.orders, chosen))
    job.wrote(*(job.path(name) for name in ("predictions.parquet", "fits.tsv", "curves.tsv", "splits.parquet")))


@dataclass(frozen=True)
class State:
    """Finished fits, each in its folder; `fit.json` is written last and makes a fit count."""

    folder: Path

    def at(self, fit: Fit, name: str) -> Path:
        """A file of a fit."""
        return self.folder / "fits" / fit.id / name

    def mask(self, fit: Fit, case: str) -> Path:
        """The predicted mask of a test case."""
        return self.at(fit, f"masks/{case}.nii.gz")

    def has(self, fit: Fit) -> bool:
        """Whether a fit is finished."""
        return self.at(fit, "fit.json").is_file()

    def save(self, fit: Fit, predictions: pd.DataFrame, facts: dict[str, Any], curve: list[Any]) -> None:
        """Keep a finished fit."""
        tables.write_parquet(self.at(fit, "predictions.parquet"), predictions)
        clean = {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in facts.items()}
        rows = [[None if isinstance(v, float) and not np.isfinite(v) else v for v in row] for row in curve]
        write_json(self.at(fit, "fit.json"), {"facts": clean, "curve": rows})

    def facts(self, fit: Fit) -> dict[str, Any]:
        """A finished fit's row of fits.tsv."""
        return dict(read_json(self.at(fit, "fit.json"))["facts"])

    def curve(self, fit: Fit) -> list[Any]:
        """Steps, loss and validation score of a finished fit."""
        return list(read_json(self.at(fit, "fit.json"))["curve"])

    def predictions(self, fit: Fit) -> pd.DataFrame:
        """A finished fit's rows of predictions.parquet."""
        return tables.read_parquet(self.at(fit, "predictions.parquet"))

    def drop_worse_models(self, fits: list[Fit]) -> None:
        """Of fits that compete for one model, keep the best one's weights and drop the others'."""
        best = self.best(fits)
        for fit in fits:
            if fit is not best and self.has(fit):
                self.at(fit, "model.safetensors").unlink(missing_ok=True)

    def best(self, fits: list[Fit]) -> Fit | None:
        """The finished fit with the best validation score that has a network; the first of equals."""
        known = [(fit, self.facts(fit)) for fit in fits if self.has(fit)]
        scores = [
            (-np.inf if facts.get("val_score") is None else facts["val_score"], fit) for fit, facts in known if facts["network"]
        ]
        return max(scores, key=lambda pair: pair[0])[1] if scores else None


def fits_table(facts: list[dict[str, Any]]) -> pd.DataFrame:
    """A row per fit; columns that only some fits have are `n/a` in the others."""
    names = dict.fromkeys(name for row in facts for name in row if name != "network")
    table = pd.DataFrame([{name: row.get(name) for name in names} for row in facts], dtype=object)
    return table[[*(name for name in table if name != "seconds"), "seconds"]]


def write_nifti(path: Path, mask: np.ndarray, affine: np.ndarray) -> None:
    """Write a mask as compressed NIfTI-1; equal masks are equal bytes. A sheared grid, unknown to qforms, has an sform alone."""
    image = nibabel.Nifti1Image(np.asarray(mask), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=0 if shear_deg(affine) > SQUARE_DEG else 1)
    with writing(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def _copy(source: Path, target: Path) -> None:
    with writing(target) as temporary:
        shutil.copyfile(source, temporary)


def _inputs_hash(job: Job, starting: Starting) -> str:
    """Hash of what the fits are made of: tables and receipt of the source (which hold the arrays' hashes), labels, weights."""
    inputs = job.spec.inputs
    hashes = [sha256_file(inputs[name]) for name in ("samples", "volumes")]
    hashes += [_outputs_hash(Path(inputs[name]).parent) for name in ("samples", "labels") if name in inputs]
    return sha256_text(canonical_json([hashes, starting.hashes]))[:16]


def _outputs_hash(folder: Path) -> str:
    receipt = folder / RECEIPT
    return sha256_text(canonical_json(read_json(receipt)["outputs"])) if receipt.is_file() else ""


@contextlib.contextmanager
def _stops_with_a_sentence() -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR1 end the job with the exit code that asks for another try."""

    def stop(number: int, _: Any) -> None:
        raise PreemptedError(
            f"stopped by {signal.Signals(number).name}. Finished fits are saved; the same command goes on with the next one."
        )

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    except ValueError:  # not in the main thread: whoever started the thread handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
