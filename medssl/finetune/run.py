"""Stage finetune: from starting weights and few labels to predictions, for every starting point under one recipe."""

from __future__ import annotations

import gzip
import math
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from medssl.artefacts.fits import CURVES, FITS, SPLITS_OF_FITS, ModelContract
from medssl.artefacts.labels import LabelCounts
from medssl.artefacts.names import FitId
from medssl.artefacts.predictions import PREDICTIONS
from medssl.artefacts.wanted import WantedFits
from medssl.core import tables
from medssl.core.errors import CorruptArtefactError
from medssl.core.files import writing
from medssl.core.job import Job, Spec
from medssl.core.progress import Bar
from medssl.core.signals import raised
from medssl.core.store import link
from medssl.core.workers import Report
from medssl.finetune.fitting import Work
from medssl.finetune.gating import alarm
from medssl.finetune.kept_fits import MODEL, Kept, KeptFits, describe, keep_array
from medssl.finetune.options import TaskOptions
from medssl.finetune.predicting import Model
from medssl.finetune.predictions import split_rows
from medssl.finetune.saving import Steps
from medssl.finetune.side_by_side import Peak, Room, side_by_side, start_method
from medssl.finetune.starting import Starting
from medssl.finetune.task import Mask, Source
from medssl.nn.device import described, device
from medssl.nn.weights import save_encoder
from medssl.volume.geometry import shear_deg

OF_CURVE, OF_GATES = ("step", "loss", "val_score"), ("kept", "channels")
"""Columns of curves.tsv, and those that only gates fill."""
SQUARE_DEG = 0.01
"""Axes this close to right angles count as perpendicular: rounding in a header's float32 is far below."""


def run(job: Job) -> None:
    """Compute every fit of a task that is not stored yet, then join their predictions.

    Raises:
        StudyError: the source has no labels, an encoder does not fit it; with what to do.
        PreemptedError: stopped by a signal; finished fits are kept.
    """
    opened: list[State] = []
    with raised(lambda: _what_is_kept(opened)):
        state = State.open(job)
        opened.append(state)
        work, options = state.work, state.work.options
        _say_what_labels_lack(job, options.source)
        WantedFits(spec=job.spec.hash, fit_keys=state.fit_keys).write(WantedFits.path(job.spec.layout, job.spec.name))
        waiting = state.waiting
        job.log(f"{len(work.fits)} fits, {len(work.fits) - len(waiting)} already made; {work.described}")
        if waiting:
            with job.progress("", sum(map(work.length, state.distinct)), "steps") as bar:
                bar.resume(bar.total - sum(map(work.length, waiting)))
                ahead = Ahead(bar, work, len(state.distinct), len(state.distinct) - len(waiting))
                room = Room.of(options, job.threads, work.device)
                for fit in side_by_side(waiting, room, partial(make, state), ahead.steps, work.network_of, *_in_a_process(state)):
                    take(state, fit)
                    ahead.ended(fit, state.of_fit(fit).val_score)
        models = {str(start): best for start in work.starting.starts if (best := take_model(state, str(start))) is not None}
        finish(state, models)
        job.notes |= {
            "device": described(work.device),
            "fits": len(work.fits),
            "restored_fits": state.num_restored,
            "fit_keys": state.fit_keys,
        }
        job.write_receipt()


def _what_is_kept(opened: list[State]) -> str:
    """The saved work of a stopped task, in words."""
    if not opened:
        return "Finished fits are kept."
    state = opened[0]
    kept = sum(state.keys[fit] in state.kept for fit in state.distinct)
    return f"{kept} of {len(state.distinct)} fits are kept, and so is the last saved state of each unfinished one."


@dataclass
class Ahead:
    """Progress of a task, in steps of its fits; the last step of a fit stands for the work after training."""

    bar: Bar
    work: Work
    fits: int
    done: int = 0
    counted: dict[FitId, int] = field(default_factory=dict)

    def steps(self, fit: FitId, steps: Steps) -> None:
        """Add steps of a fit; steps repeated after a stop are counted once."""
        before = self.counted.get(fit, 0)
        self.counted[fit] = min(before + steps.done, self.work.length(fit) - 1)
        (self.bar.found if steps.earlier else self.bar.advance)(self.counted[fit] - before)

    def ended(self, fit: FitId, score: float) -> None:
        """A fit has ended with this validation score."""
        self.done += 1
        rest = self.work.length(fit) - self.counted.get(fit, 0)
        said = f": {score:.3f}" if math.isfinite(score) else ", without a validation score"
        self.bar.advance(rest, f"{self.done} of {self.fits} fits, {fit}{said}")


def _in_a_process(state: State) -> tuple[Any, ...]:
    """The function and arguments that a process beside this one calls to run fits; see `start_method`."""
    job, forked = state.work.job, start_method(state.work.options, state.work.device) == "fork"
    return (_makes, state) if forked else (_opens, job.spec, job.threads)


def _opens(spec: Spec, threads: int) -> Callable[[FitId, Report], Peak]:
    return _makes(State.open(Job(spec, None, threads)))


def _makes(state: State) -> Callable[[FitId, Report], Peak]:
    def made(fit: FitId, report: Report) -> Peak:
        make(state, fit, report)
        return Peak.here()

    return made


def _say_what_labels_lack(job: Job, source: str) -> None:
    """Report on the screen and in the log: images without a label, and label files or entries that were refused."""
    if "labels" not in job.spec.inputs:
        return
    counts = LabelCounts.read(job.read(Path(job.spec.inputs["labels"]).parent / LabelCounts.FILE))
    for remark in filter(None, (counts.unlabelled_in_words, counts.strangers_in_words)):
        job.remark(f"labels of {source}: {remark}")


def predict(
    model: Path,
    samples: Path,
    volumes: Path,
    out: Path,
    *,
    ingested: Path | None = None,
    threads: int = 1,
    force: bool = False,
) -> list[Path]:
    """Apply a fine-tuned model to a prepared source: a table, and masks on the grids of the given images if the task makes masks.

    Args:
        model: folder with `model.safetensors` and `contract.json`.
        samples, volumes: tables of the prepare stage; prepared as the contract's `prepare` says.
        out: the folder for the task's table, such as `probabilities.tsv`, and `masks/<volume_id>.nii.gz`.
        ingested: ingest's folder `volumes/`, which has the source grids; without it masks are on the prepared grid.
        threads: of the processor.
        force: accept images that differ from the model's training images, with a warning.

    Returns:
        the files written.

    Raises:
        StudyError: no model of medssl there, or images with another modality, spacing, slice axis, window or channels than the
            training images.
    """
    torch.set_num_threads(threads)
    fitted = Model.open(model, force=force)
    rows, written = [], []
    for answer in fitted.task.predict(fitted, Source(samples.parent.name, samples, volumes, ingested)):
        rows.append(answer.rows)
        if answer.mask is not None:
            written.append(out / "masks" / f"{answer.mask.case_id}.nii.gz")
            write_nifti(written[-1], answer.mask)
    table = out / fitted.plugin.constant("TABLE")
    tables.write_tsv(table, pd.concat(rows, ignore_index=True))
    return [*written, table]


@dataclass(frozen=True)
class State:
    """The fits of a job, and their keys in the store."""

    work: Work
    store: KeptFits
    keys: dict[FitId, str]
    kept: dict[str, Kept]
    """The finished fits, by key."""
    made: set[str] = field(default_factory=set)
    """Keys of the fits that this job computed."""

    @classmethod
    def open(cls, job: Job) -> State:
        """The work of a job and its stored fits. Fits run on `threads_per_fit` threads, whatever the job has."""
        options = job.options(TaskOptions)
        torch.set_num_threads(options.threads_per_fit)
        threadpool_limits(options.threads_per_fit)  # of other libraries
        how = options.deterministic, options.precision
        where = device(options.device, option="finetune.device", deterministic=how[0], precision=how[1])
        work = Work(job, options, Starting.read(job, options), where)
        return cls.of(work, KeptFits(Path(job.spec.layout.state("finetune", "fits"))))

    @classmethod
    def of(cls, work: Work, store: KeptFits) -> State:
        """The state of a job's fits from the store."""
        keys = {fit: work.key(fit) for fit in work.fits}
        found = {key: store.find(key) for key in dict.fromkeys(keys.values())}
        if damaged := sum(kept is None and store.holds(key) for key, kept in found.items()):
            work.job.remark(f"{damaged} kept fits are damaged, so they are made again; write to copies of results")
        return cls(work, store, keys, {key: kept for key, kept in found.items() if kept is not None})

    @property
    def fit_keys(self) -> list[str]:
        """The keys of all fits, sorted."""
        return sorted(set(self.keys.values()))

    @property
    def num_restored(self) -> int:
        """How many fits were already stored; a twin of a computed one is not counted."""
        return sum(key not in self.made for key in self.keys.values())

    @property
    def waiting(self) -> list[FitId]:
        """The fits that are still to be computed; of equal ones the first."""
        return [fit for fit in self.distinct if self.keys[fit] not in self.kept]

    @property
    def distinct(self) -> list[FitId]:
        """All fits; of equal ones the first."""
        first = {key: fit for fit, key in reversed(self.keys.items())}
        return [fit for fit in self.keys if first[self.keys[fit]] == fit]

    def of_fit(self, fit: FitId) -> Kept:
        """A finished fit."""
        return self.kept[self.keys[fit]]

    def best(self, start: str) -> FitId | None:
        """Of the finished fits that compete for the model of a starting point, the one with the best validation score.

        The first on a tie; None if none has a network.
        """
        competing = [
            fit for fit, key in self.keys.items() if str(fit.start) == start and self.work.competes(fit) and key in self.kept
        ]
        competing = [fit for fit in competing if self.of_fit(fit).has_network]
        return max(competing, key=lambda fit: self.of_fit(fit).val_score, default=None)


def make(state: State, fit: FitId, report: Report = lambda steps: None, *, model: Path | None = None) -> None:
    """Compute and store one fit; of those that compete for a model, only the best one keeps its weights.

    report: called now and then with the steps since the last call.
    model: a link to its weights, made before another task with the same fit may delete them.
    """
    start_s = time.monotonic()
    work, key = state.work, state.keys[fit]
    fitted = work.fit(fit, report)
    with state.store.adding(key) as folder:
        write_masks(folder / "masks", fitted.masks)
        if fitted.predicted is not None:
            keep_array(folder, fitted.predicted)
        if fitted.network is not None and work.competes(fit):
            save_encoder(folder / MODEL, fitted.network)
        facts = fitted.facts | {"seconds": round(time.monotonic() - start_s, 3)}
        describe(folder, facts, fitted.curve, has_network=fitted.network is not None)
        if model is not None:
            link(folder / MODEL, model)
    shutil.rmtree(work.unfinished(fit), ignore_errors=True)
    take(state, fit)


def take(state: State, fit: FitId) -> None:
    """Add a fit that was computed, here or in another process, to the finished ones.

    Raises:
        CorruptArtefactError: it is not there.
    """
    key = state.keys[fit]
    kept = state.store.find(key)
    if kept is None:
        raise CorruptArtefactError(f"{state.store.folder / key} is not as it was written. Run the same command again.")
    state.kept[key] = kept
    state.made.add(key)
    if state.work.competes(fit):
        _drop_worse_models(state, str(fit.start))


def _drop_worse_models(state: State, start: str) -> None:
    best = state.best(start)
    for fit, key in state.keys.items():
        if str(fit.start) == start and key in state.kept and best is not None and key != state.keys[best]:
            state.kept[key].drop_model()


def take_model(state: State, start: str) -> FitId | None:
    """Link the weights of the best fit of a starting point into the job's folder; the fit, or None if none has a network.

    The weights may be gone, because others were better at the time, or because another task with the same fit has just deleted
    them: then the fit is repeated.
    """
    best = state.best(start)
    if best is None:
        return None
    target = state.work.job.path("models", start, MODEL)
    if not state.of_fit(best).link_model(target):
        state.work.job.log(f"{best}: made again, as it is the best fit of its starting point and its weights were not kept")
        make(state, best, model=target)
    return best


def finish(state: State, models: dict[str, FitId]) -> None:
    """Link the masks of every fit beside the given ones, write the tables, and describe the model of each starting point.

    models: by starting point, the fit whose weights are in place.
    """
    work, job = state.work, state.work.job
    for division in work.divisions.by_fold.values():
        for mask in work.task.references(work.data_of(division)):
            path = job.path("masks", "reference", f"{mask.case_id}.nii.gz")
            write_nifti(path, mask)
            job.wrote(path)
    for fit in work.fits:
        kept = state.of_fit(fit)
        for mask_path in kept.masks:
            target = job.path("masks", work.folder(fit), mask_path.name)
            link(mask_path, target)
            job.wrote(target, sha256=kept.sha256[f"masks/{mask_path.name}"])
    _write_tables(state)
    for fit in work.fits:
        if sentence := closed(state.of_fit(fit)):
            job.remark(f"{fit}: {sentence}")
    for start, best in models.items():
        weights, contract = (job.path("models", start, name) for name in (MODEL, ModelContract.FILE))
        work.contract(best, work.facts(best, state.of_fit(best).facts)).write(contract)
        job.wrote(weights, contract)
    _drop_others(job.path("masks"), {"reference", *map(work.folder, work.fits)})
    _drop_others(job.path("models"), set(models))


def _drop_others(folder: Path, names: set[str]) -> None:
    """Remove what an earlier job left of fits or starts that the task no longer has."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path)


def _write_tables(state: State) -> None:
    work, job = state.work, state.work.job
    kept = {fit: state.of_fit(fit) for fit in work.fits}
    predictions = [work.rows(fit, found.predicted) for fit, found in kept.items()]
    PREDICTIONS.write(job.path(PREDICTIONS.file), pd.concat(predictions, ignore_index=True))
    FITS.write(job.path(FITS.file), fits_table([work.facts(fit, found.facts) for fit, found in kept.items()]))
    curves = [
        work.names(fit) | dict(zip((*OF_CURVE, *OF_GATES), row, strict=False))
        for fit, found in kept.items()
        for row in found.curve
    ]
    columns = [*work.names(work.fits[0]), *OF_CURVE, *(OF_GATES if work.recipe.bottleneck else ())]
    CURVES.write(job.path(CURVES.file), pd.DataFrame(curves, columns=columns))
    SPLITS_OF_FITS.write(job.path(SPLITS_OF_FITS.file), split_rows(work.divisions))
    job.wrote(*(job.path(table.file) for table in (PREDICTIONS, FITS, CURVES, SPLITS_OF_FITS)))


def closed(fit: Kept) -> str | None:
    """The alarm of a fit's bottleneck at the step that was chosen; None without a bottleneck."""
    gates = [row[len(OF_CURVE) :] for row in fit.curve if row[0] == fit.facts.get("best_step")]
    return alarm(*gates[-1]) if gates and gates[-1] else None


def fits_table(facts: list[dict[str, Any]]) -> pd.DataFrame:
    """A row per fit; columns that only some fits have are `n/a` in the others."""
    names = dict.fromkeys(name for row in facts for name in row)
    table = pd.DataFrame([{name: row.get(name) for name in names} for row in facts], dtype=object)
    return table[[*(name for name in table if name != "seconds"), "seconds"]]


def write_masks(folder: Path, masks: Iterable[Mask]) -> None:
    """Write masks, each in a thread while the next one is computed."""
    with ThreadPoolExecutor(1) as writer:
        last: Future[None] | None = None
        for mask in masks:
            if last is not None:
                last.result()  # at most two are in memory
            last = writer.submit(write_nifti, folder / f"{mask.case_id}.nii.gz", mask)
        if last is not None:
            last.result()


def write_nifti(path: Path, mask: Mask) -> None:
    """Write a mask as compressed NIfTI-1; equal masks give equal bytes. A sheared grid has only an sform, as a qform cannot
    express it.
    """
    image = nibabel.Nifti1Image(np.asarray(mask.values), mask.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(mask.affine, code=1)
    image.set_qform(mask.affine, code=0 if shear_deg(mask.affine) > SQUARE_DEG else 1)
    with writing(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
