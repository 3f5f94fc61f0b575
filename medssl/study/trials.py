"""`medssl plan`: tries the real stages on a small piece of every source, and estimates the whole study."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from medssl.artefacts.names import Run
from medssl.core import gpus, plugins, signals, tables
from medssl.core.errors import StudyError, TooManyRefusalsError
from medssl.core.files import canonical_json, read_json
from medssl.core.listing import walk
from medssl.pretrain.options import PretrainOptions
from medssl.study.dag import Dag
from medssl.study.options import Study
from medssl.study.planning import MB, Cost, LargestBatch, grown, images_of_fits, largest_batch, num_started, peak_at, steps
from medssl.study.probe import PROBE_STEPS, OutOfTimeError, Probe, RefusedTrialError, Report, cheap_jobs

PIECES = (1, 3)
"""Folders of a source in each of the two probes."""
WIDER = (1, 4, 16, 64)
"""If a piece has no usable file, the next one has this many times as many folders, from all over the source."""
ENOUGH_S = 40.0
"""If the first piece takes longer than this, it is the only one."""
FEWEST = 2
"""Samples of the smallest batch."""
FIRST_ON_CPU = 32
"""Without a GPU, a batch of at most this many is tried first."""
TRIAL_S = 60.0
"""The whole batch is tried on a processor if its steps then take no longer than this. The time of an image hardly depends on the
batch there."""


@dataclass(frozen=True)
class Plan:
    """The cost of each job, and the largest batch of each pre-training that fits; `stopped_at` is the job whose trial had no time
    left, and those after it are not planned."""

    costs: list[Cost]
    batches: dict[str, LargestBatch]
    stopped_at: str | None = None


def plan_of(study: Study, threads: int, limit_s: float, report: Report = lambda job: None) -> Plan:
    """The cost of each job of the study on this machine. After `limit_s` the trials stop, and what they measured is the plan.

    `report` gets the name of each job before its trial.

    Raises:
        MedsslError: the trial of a job fails.
        DiskFullError: no room for the pieces.
    """
    with signals.unwound(), tempfile.TemporaryDirectory(prefix="medssl-plan-") as folder:
        trials = _Trials(study, Path(folder), threads, time.monotonic() + limit_s, report)
        try:
            trials.run()
        except OutOfTimeError as error:
            return trials.plan(str(error))
        return trials.plan()


class _Trials:
    """The trials of all jobs, and what is known after them."""

    def __init__(self, study: Study, folder: Path, threads: int, deadline_s: float, report: Report) -> None:
        self.study, self.folder, self.threads, self.deadline_s, self.report = study, folder, threads, deadline_s, report
        self.sizes = {name: _bytes(name, source.path) for name, source in study.sources.items()}
        self.probes: list[Probe] = []
        self.tried: dict[str, _Tried] = {}

    def run(self) -> None:
        """Stages before pre-training on two pieces, and each pre-training on the second.

        Raises:
            OutOfTimeError: before the last trial.
        """
        began_s = time.monotonic()
        for count in PIECES:
            if self.probes and time.monotonic() - began_s > ENOUGH_S:
                break  # in proportion to the one piece
            self.take_piece(count)
        known: dict[str, _Tried] = {}
        for name in self.study.pretrain:
            self.tried[name] = _tried(self.probes[-1], self._runs(name), known)

    def take_piece(self, count: int) -> None:
        """A piece of the study with training samples, and its cheap stages; the first pieces of a mixed source may have none.

        Raises:
            TooManyRefusalsError: no piece has a usable file; with the reasons.
            RefusedTrialError: a stage refuses every piece.
        """
        for width in WIDER:
            folder = self.folder / f"{count}-{width}"
            probe = Probe(folder, self.study, count * width, self.threads, self.deadline_s, spread=width > 1)
            probe.report = self.report
            self.probes.append(probe)
            last = probe.is_whole or width == WIDER[-1]
            try:
                probe.run_cheap_stages()
            except (TooManyRefusalsError, RefusedTrialError):  # no usable file, or all of them are held out
                if last:
                    raise
            else:
                if last or all(probe.samples(cohort, str(run)) >= FEWEST for cohort, run in probe.dag.runs()):
                    return
            shutil.rmtree(self.probes.pop().folder)

    def plan(self, stopped_at: str | None = None) -> Plan:
        """What was measured."""
        dag = Dag(self.study)
        found = [self._cheap(stage, name) for stage, name in cheap_jobs(dag)]
        for name in self.study.pretrain:
            found += [self._pretraining(name, cohort, run) for cohort, run in self._runs(name)]
        found += [self._finetuning(task, whole=stopped_at is None) for task in self.study.finetune]
        found += [_unknown("evaluate", task) for task in self.study.finetune]
        found += [_unknown("report", page) for page in dag.pages()]
        return Plan(found, {name: tried.largest_batch() for name, tried in self.tried.items()}, stopped_at)

    def _runs(self, name: str) -> list[tuple[str, str]]:
        return [(cohort, str(run)) for cohort, run in Dag(self.study).runs() if run.name == name]

    def _cheap(self, stage: str, name: str) -> Cost:
        measured = [probe for probe in self.probes if (stage, name) in probe.measured]
        if not measured:
            return _unknown(stage, name)
        small, large = (probe.measured[stage, name] for probe in (measured[0], measured[-1]))
        whole = grown(small, large, measured[-1].size_of(name, self.sizes))
        return Cost(stage, name, whole.wall_s / 3600, whole.wall_s / 3600, whole.peak_mb, whole.disk_mb)

    def _pretraining(self, name: str, cohort: str, run: str) -> Cost:
        if name not in self.tried:
            return _unknown("pretrain", f"{cohort}/{run}")
        settings, probe, tried = self.study.pretrain[name], self.probes[-1], self.tried[name]
        samples = probe.samples(cohort, run) * probe.size_of(cohort, self.sizes) / probe.size_of(cohort)
        batch = min(settings.batch_size, samples)
        processes = settings.devices * settings.nodes
        hours = (tried.start_s + steps(settings, samples) * batch * tried.per_image_s / processes) / 3600
        share = batch / processes / settings.accumulate
        ram_mb, gpu_mb = (peak_at(share, tried.batches, peaks) for peaks in (tried.ram_mb, tried.gpu_mb))
        return Cost("pretrain", f"{cohort}/{run}", hours, hours * settings.nodes, ram_mb, tried.took.disk_mb, gpu_mb)

    def _finetuning(self, task: str, *, whole: bool) -> Cost:
        """All pixels that fits see or predict, at the speed of the slowest pre-training, which is slower than a fit."""
        if not (whole and self.tried):
            return _unknown("finetune", task)
        settings, probe = self.study.finetune[task], self.probes[-1]
        split = self.study.prepare_of(settings.source).split
        runs = [run for _, run in probe.dag.runs_for(settings)]
        of_runs = [self.study.pretrain[run.name] for run in runs]
        networks = {canonical_json([of_run.backbone.model_dump(), of_run.spatial_dims]) for of_run in of_runs}
        started = num_started(settings, runs, num_networks=max(1, len(networks)), num_folds=split.folds or 1)
        times = self.sizes[settings.source] / probe.sizes[settings.source]
        labelled, val, test = (probe.labelled(settings.source, part) * times for part in ("train", "val", "test"))
        if split.folds is not None:  # the probe's split has none
            cases = labelled + val + test
            labelled, val, test = cases * (1 - 1 / split.folds), cases * split.val_frac, cases / split.folds
        probes = plugins.find("task", settings.task).constant("PROBES", default=[])
        images = started * images_of_fits(settings, probes, labelled, val, test)
        first = next(iter(self.study.pretrain.values()))
        size = settings.size or first.size
        pixels = math.prod(size if len(size) > 1 else size * first.spatial_dims)
        hours = images * pixels * max(tried.per_pixel_s() for tried in self.tried.values()) / 3600
        return Cost("finetune", task, hours, hours, max(c.peak_mb for c in probe.measured.values()), None)


def _unknown(stage: str, name: str) -> Cost:
    return Cost(stage, name, None, None, None, None)


class _Tried:
    """A pre-training of a few steps at two batches, without gradient accumulation; at the larger alone if parts of an objective's
    batch do not fit into the smaller (slices of a volume, partitions)."""

    def __init__(self, probe: Probe, settings: PretrainOptions, cohort: str, run: str, batches: list[int]) -> None:
        ram_mb, gpu_mb = {}, {}
        for batch in dict.fromkeys(batches):
            try:
                self.took = probe.run("pretrain", f"{cohort}/{run}", spec=probe.with_batch(f"{cohort}/{run}", batch))
            except RefusedTrialError:
                if batch == batches[1]:
                    raise
                batches = [batches[1], batches[1]]
                continue
            ram_mb[batch] = self.took.peak_mb
            receipt = read_json(probe.folder / probe.dag.layout.pretrain(cohort, run, "receipt.json"))
            gpu_mb[batch] = float(receipt.get("gpu_peak_mb", 0))
        self.settings, self.batches = settings, batches
        self.ram_mb, self.gpu_mb = ([peaks[batch] for batch in batches] for peaks in (ram_mb, gpu_mb))
        curve = tables.read_tsv(probe.folder / probe.dag.layout.pretrain(cohort, run, "curve.tsv"))
        rates = curve["images_per_s"].tolist()
        self.per_image_s = 1 / median(rates[1:])  # the first step warms up
        self.start_s = max(0.0, self.took.wall_s - PROBE_STEPS * self.batches[1] * self.per_image_s)

    def largest_batch(self) -> LargestBatch:
        """The largest batch for the memory of the GPU, or without one of the machine."""
        if self.gpu_mb[1]:
            return largest_batch(self.batches, self.gpu_mb, gpus.memory_mb())
        return largest_batch(self.batches, self.ram_mb, psutil.virtual_memory().available / MB)

    def per_pixel_s(self) -> float:
        """Seconds for a pixel of a view; a sample has two views or more."""
        size = self.settings.size
        return self.per_image_s / 2 / math.prod(size if len(size) > 1 else size * self.settings.spatial_dims)


def _tried(probe: Probe, runs: list[tuple[str, str]], known: dict[str, _Tried]) -> _Tried:
    """The trial of the pre-training of some runs; equal ones are tried once, so that they get equal advice."""
    cohort, run = next((pair for pair in runs if probe.has_kept(*pair)), runs[0])
    settings = probe.study.pretrain[Run.parse(run).name]
    batches = batches_to_try(settings.batch_size // settings.accumulate, probe.samples(cohort, run))
    same = canonical_json([settings.model_dump(mode="json", exclude={"arms", "seeds"}), cohort, batches])
    if same not in known:
        known[same] = _in_time(probe, settings, cohort, run, batches)
    return known[same]


def _in_time(probe: Probe, settings: PretrainOptions, cohort: str, run: str, batches: list[int]) -> _Tried:
    """The trial at the wanted batches, or on a processor at smaller ones if those would take long."""
    if batches[1] > FIRST_ON_CPU and not gpus.visible():
        with contextlib.suppress(RefusedTrialError):  # such a batch may be less than the objective's smallest
            quick = _Tried(probe, settings, cohort, run, batches_to_try(batches[1], FIRST_ON_CPU))
            if PROBE_STEPS * sum(batches) * quick.per_image_s > TRIAL_S:
                return quick
    return _Tried(probe, settings, cohort, run, batches)


def batches_to_try(wanted: int, samples: int) -> list[int]:
    """Two batches, the second twice the first if there are enough samples; halving keeps parts of a batch whole.

    Raises:
        StudyError: fewer than two samples.
    """
    if samples < FEWEST:
        raise StudyError(
            f"the piece that the probe takes has {samples} samples to train on and it needs {FEWEST}. See whether the split "
            "keeps enough for training; medssl cannot plan this study from a piece of it."
        )
    large = wanted
    while large > samples and large % 2 == 0:
        large //= 2
    large = max(FEWEST, min(large, samples))
    return [max(FEWEST, large // 2), large]


def _bytes(name: str, path: str) -> float:
    return float(sum(row[1] for row in walk(name, path) if row[3] == "file"))
