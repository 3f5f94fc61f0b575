"""`medssl plan`: runs the real stages on a small piece of every source in a temporary folder, and measures them."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from medssl.artefacts.names import Run
from medssl.artefacts.series import REJECTED
from medssl.core import gpus, signals, tables
from medssl.core.errors import MedsslError, StudyError, TooManyRefusalsError
from medssl.core.files import canonical_json, read_json, write_json
from medssl.core.label_table import FOLDERS
from medssl.core.listing import walk
from medssl.pretrain.options import PretrainOptions
from medssl.study.dag import Dag
from medssl.study.file import load_study
from medssl.study.options import Study
from medssl.study.piece import Piece, piece
from medssl.study.planning import MB, Cost, LargestBatch, Measured, grown, largest_batch, num_fits, peak_at, steps
from medssl.study.sources import refresh_sources

PIECES = (1, 3)
"""Folders of a source in each of the two probes."""
WIDER = (1, 4, 16, 64)
"""If a piece has no usable file, the next one has this many times as many folders, from all over the source."""
PROBE_STEPS = 4
ENOUGH_S = 40.0
"""If the first piece takes longer than this, it is the only one."""
FEWEST = 2
"""Samples of the smallest batch."""
STEPS_OF = {"ingest": ("scan", "convert", "merge"), "reduce/describe": ("describe",), "reduce/leakage": ("leakage",)}


Report = Callable[[str], None]


def costs(
    study: Study, threads: int, limit_s: float, report: Report = lambda job: None
) -> tuple[list[Cost], dict[str, LargestBatch]]:
    """The cost of each job of the study on this machine, and the largest batch of each pre-training that fits.

    `report` gets the name of each job before its trial.

    Raises:
        MedsslError: the probe of a job fails, or all of them take longer than `limit_s`.
        DiskFullError: no room for the pieces.
    """
    sizes = {name: _bytes(name, source.path) for name, source in study.sources.items()}
    began_s = time.monotonic()
    with signals.unwound(), tempfile.TemporaryDirectory(prefix="medssl-plan-") as folder:
        probes: list[_Probe] = []
        for count in PIECES:
            if probes and time.monotonic() - began_s > ENOUGH_S:
                probes.append(probes[0])  # in proportion to the one piece
                break
            probes.append(_usable(Path(folder), study, count, threads, began_s + limit_s, report))
        found = [_cheap(probes, stage, name, sizes) for stage, name in probes[0].cheap]
        batches: dict[str, LargestBatch] = {}
        per_pixel_s: dict[str, float] = {}
        known: dict[str, _Tried] = {}
        for name in study.pretrain:
            runs = [(cohort, str(run)) for cohort, run in probes[1].dag.runs() if run.name == name]
            tried = _tried(probes[1], runs, known)
            found += [_pretraining(study, probes[1], tried, cohort, run, sizes) for cohort, run in runs]
            batches[name], per_pixel_s[name] = tried.largest_batch(), tried.per_pixel_s()
        found += [_finetuning(study, probes[1], task, sizes, per_pixel_s) for task in study.finetune]
        found += [Cost("evaluate", task, None, None, None, None) for task in study.finetune]
        found += [Cost("report", page, None, None, None, None) for page in probes[1].dag.pages()]
    return found, batches


def _usable(folder: Path, study: Study, count: int, threads: int, deadline_s: float, report: Report = lambda job: None) -> _Probe:
    """A piece of the study with training samples, after its cheap stages; the first pieces of a mixed source may have none.

    Raises:
        TooManyRefusalsError: no piece has a usable file; with the reasons.
    """
    for width in WIDER:
        probe = _Probe(folder / f"{count}-{width}", study, count * width, threads, deadline_s, spread=width > 1)
        probe.report = report
        last = probe.is_whole or width == WIDER[-1]
        try:
            probe.run_cheap_stages()
        except TooManyRefusalsError:
            if last:
                raise
        else:
            if last or all(probe.samples(cohort, str(run)) >= FEWEST for cohort, run in probe.dag.runs()):
                return probe
        shutil.rmtree(probe.folder)
    raise AssertionError("the last piece is returned or raises")


class _Probe:
    """A piece of the study in a separate folder."""

    def __init__(self, folder: Path, study: Study, count: int, threads: int, deadline_s: float, *, spread: bool = False) -> None:
        self.folder, self.threads, self.deadline_s = folder, threads, deadline_s
        self.report: Report = lambda job: None
        values = absolute(study)
        self.pieces: dict[str, Piece] = {}
        folder.mkdir()
        for name, source in study.sources.items():
            labels = values["sources"][name]["labels"]
            self.pieces[name] = piece(name, source.path, labels, folder / "sources" / name, count, spread=spread)
            values["sources"][name]["path"] = self.pieces[name].path
        self.sizes = {name: one.num_bytes for name, one in self.pieces.items()}
        values["output"] = "results"
        for run in values["pretrain"].values():
            run |= {
                "devices": 1,
                "nodes": 1,
                "accumulate": 1,
                "max_steps": PROBE_STEPS,
                "tensorboard": False,
                "loggers": [],
                "init_run": None,
                "layer_decay": 1.0,
                "stem_lr_frac": 1.0,
            }
        values["ingest"] |= {"shards": 1, "max_refused_frac": 1.0}
        for section in (values["prepare"], *(source["prepare"] for source in values["sources"].values())):
            section.get("split", {}).pop("folds", None)  # a piece may have fewer patients than folds
        self.study = load_study(values)
        self.measured: dict[tuple[str, str], Measured] = {}
        with contextlib.chdir(folder):
            self.dag = Dag(self.study)
            refresh_sources(self.study, self.dag.layout)
            self.dag.write_specs()

    @property
    def is_whole(self) -> bool:
        """Whether the pieces are the whole sources."""
        return all(one.is_whole for one in self.pieces.values())

    @property
    def cheap(self) -> list[tuple[str, str]]:
        """(stage, name) of the jobs before pre-training, each after those that it depends on."""
        found = [spec for _, spec in self.dag.specs() if spec.stage in ("ingest", "prepare", "reduce")]
        found = [spec for spec in found if not {"encoder", "encoders"} & set(spec.inputs)]  # those wait for a pre-training
        found.sort(key=lambda spec: spec.stage == "reduce" and "match" in spec.inputs)  # after the arm whose count they use
        return [(spec.stage, spec.name) for spec in found]

    def run_cheap_stages(self) -> None:
        """Ingest, prepare and reduce."""
        for stage, name in self.cheap:
            step_names = STEPS_OF.get(f"{stage}/{name.split('/')[-1]}", STEPS_OF.get(stage, (None,)))
            if stage == "ingest" and name.count("/") == 1:
                self.try_labels(name)
                continue
            if stage == "ingest" and "/" in name:
                step_names = ("record",)
            if stage == "prepare":
                self.prepare(name)
                continue
            for step in step_names:
                self.run(stage, name, step)

    def prepare(self, name: str) -> None:
        """Prepare a source; if the piece has too few patients for the split of the study, all of them train."""
        try:
            self.run("prepare", name)
        except MedsslError:
            if time.monotonic() > self.deadline_s:
                raise
            path = self.folder / self.dag.layout.spec("prepare", name)
            values = read_json(path)
            values["options"]["split"] |= {"val_frac": 0.0, "test_frac": 0.0}
            write_json(path, values)
            self.run("prepare", name)

    def try_labels(self, name: str) -> None:
        """Read the labels of the images in the piece; if none has a label, they are not planned, and no job here needs them."""
        try:
            self.run("ingest", name, "labels")
        except MedsslError:
            if time.monotonic() > self.deadline_s:
                raise

    def run(self, stage: str, name: str, step: str | None = None, spec: str | None = None) -> Measured:
        """Run one step of a job, and add its measurements to those of the steps before."""
        self.report(f"{stage} {name}")
        path = spec or self.dag.layout.spec(stage, name)
        command = [sys.executable, "-m", "medssl", stage, path, "--threads", str(self.threads)]
        command += ["--step", step] if step else []
        began_s = time.monotonic()
        with open(self.folder / "log", "w+") as log:
            process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
            late = threading.Timer(max(0.0, self.deadline_s - began_s), process.kill)
            late.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
            finally:
                late.cancel()  # else Ctrl-C would wait for it
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode and time.monotonic() > self.deadline_s:
                raise MedsslError(f"the probe was stopped at {stage} {name}: its time is over. Give it more with --limit-s.")
            log.seek(0)
            if process.returncode == TooManyRefusalsError.exit_code:
                raise TooManyRefusalsError(self.met(name))
            if process.returncode:
                said = log.read().replace(f"{self.folder}/", "").strip()[-600:]
                raise MedsslError(f"the probe of {stage} {name} failed on {self.pieces_in_words(name)}: {said}")
        wall_s, peak_mb = time.monotonic() - began_s, usage.ru_maxrss / 1024
        now = Measured(self.size_of(name), wall_s, peak_mb, _room(self.folder / self.out(stage, name)) / MB)
        before = self.measured.get((stage, name), Measured(0, 0, 0, 0))
        self.measured[stage, name] = replace(now, wall_s=before.wall_s + wall_s, peak_mb=max(before.peak_mb, peak_mb))
        return now

    def met(self, source: str) -> str:
        """A message on a piece of a source without a usable file."""
        counts: Counter[str] = Counter()
        for table in (self.folder / self.dag.layout.ingest(source, "shards")).glob("*/rejected.tsv"):
            for row in REJECTED.read_rows(table):
                counts[row["code"]] += int(row["num_files"])
        reasons = ", ".join(f"{code} {number}" for code, number in counts.most_common())
        where = self.pieces[source]
        rest = "" if where.is_whole else " Other files may be usable: the study itself looks at every file."
        return (
            f"the probe looked at {self.pieces_in_words(source)}, and none of them can be used ({reasons or 'no image'}; "
            f"files by reason). `medssl check {where.source}` names every file with its reason.{rest}"
        )

    def pieces_in_words(self, name: str) -> str:
        """The share of the source on which a job was tried."""
        first = self.study.all_cohorts[name.split("/")[0]][0]
        one = self.pieces[first]
        return f"{one.num_files} of {one.of_files} files of source {first}"

    def out(self, stage: str, name: str) -> str:
        """The output folder of a job."""
        return dict(self.dag.specs())[self.dag.layout.spec(stage, name)].out

    def keep(self, cohort: str, run: str) -> Path:
        """The table of what a run's arm kept."""
        return self.folder / self.dag.layout.reduce(cohort, Run.parse(run).arm, "keep.parquet")

    def has_kept(self, cohort: str, run: str) -> bool:
        """Whether the arm of a run was decided."""
        return self.keep(cohort, run).is_file()

    def samples(self, cohort: str, run: str) -> int:
        """The number of samples of a run."""
        if not self.has_kept(cohort, run):  # its arm needs a pre-training: at most all samples
            return sum(self.labelled(source) for source in self.study.all_cohorts[cohort])
        return int(tables.read_parquet(self.keep(cohort, run))["keep"].sum())

    def labelled(self, source: str, split: str = "train") -> int:
        """The number of samples of a source in a part of its split."""
        return int(
            (tables.read_parquet(self.folder / self.dag.layout.prepare(source, "samples.parquet"))["split"] == split).sum()
        )

    def with_batch(self, name: str, batch: int) -> str:
        """The spec of a pre-training with another batch."""
        path = self.folder / self.dag.layout.spec("pretrain", name)
        values = read_json(path)
        values["options"]["batch_size"] = batch
        changed = path.with_name(f"{path.stem}-{batch}.json")
        write_json(changed, values)
        return str(changed)

    def size_of(self, name: str, sizes: dict[str, float] | None = None) -> float:
        """Source bytes of a job."""
        first = name.split("/")[0]
        return sum((sizes or self.sizes)[source] for source in self.study.all_cohorts[first])


def _cheap(probes: list[_Probe], stage: str, name: str, sizes: dict[str, float]) -> Cost:
    if not all((stage, name) in probe.measured for probe in probes):
        return Cost(stage, name, None, None, None, None)
    small, large = (probe.measured[stage, name] for probe in probes)
    whole = grown(small, large, probes[1].size_of(name, sizes))
    return Cost(stage, name, whole.wall_s / 3600, whole.wall_s / 3600, whole.peak_mb, whole.disk_mb)


class _Tried:
    """A pre-training of a few steps at two batches, without gradient accumulation."""

    def __init__(self, probe: _Probe, settings: PretrainOptions, cohort: str, run: str, batches: list[int]) -> None:
        self.settings, self.batches = settings, batches
        ram_mb, gpu_mb = {}, {}
        for batch in dict.fromkeys(batches):
            self.took = probe.run("pretrain", f"{cohort}/{run}", spec=probe.with_batch(f"{cohort}/{run}", batch))
            ram_mb[batch] = self.took.peak_mb
            receipt = read_json(probe.folder / probe.dag.layout.pretrain(cohort, run, "receipt.json"))
            gpu_mb[batch] = float(receipt.get("gpu_peak_mb", 0))
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


def _tried(probe: _Probe, runs: list[tuple[str, str]], known: dict[str, _Tried]) -> _Tried:
    """The trial of the pre-training of some runs; equal ones are tried once, so that they get equal advice."""
    cohort, run = next((pair for pair in runs if probe.has_kept(*pair)), runs[0])
    settings = probe.study.pretrain[Run.parse(run).name]
    batches = batches_to_try(settings.batch_size // settings.accumulate, probe.samples(cohort, run))
    same = canonical_json([settings.model_dump(mode="json", exclude={"arms", "seeds"}), cohort, batches])
    if same not in known:
        known[same] = _Tried(probe, settings, cohort, run, batches)
    return known[same]


def _pretraining(study: Study, probe: _Probe, tried: _Tried, cohort: str, run: str, sizes: dict[str, float]) -> Cost:
    settings = study.pretrain[Run.parse(run).name]
    samples = probe.samples(cohort, run) * probe.size_of(cohort, sizes) / probe.size_of(cohort)
    batch = min(settings.batch_size, samples)
    processes = settings.devices * settings.nodes
    hours = (tried.start_s + steps(settings, samples) * batch * tried.per_image_s / processes) / 3600
    share = batch / processes / settings.accumulate
    ram_mb, gpu_mb = (peak_at(share, tried.batches, peaks) for peaks in (tried.ram_mb, tried.gpu_mb))
    return Cost("pretrain", f"{cohort}/{run}", hours, hours * settings.nodes, ram_mb, tried.took.disk_mb, gpu_mb)


def _finetuning(study: Study, probe: _Probe, task: str, sizes: dict[str, float], per_pixel_s: dict[str, float]) -> Cost:
    """An upper bound: all pixels that fits see or predict, at the speed of pre-training, which is slower."""
    settings = study.finetune[task]
    fits = num_fits(settings, len(probe.dag.runs_for(settings))) * len(settings.lr)
    times = sizes[settings.source] / probe.sizes[settings.source]
    labelled, val, test = (probe.labelled(settings.source, split) * times for split in ("train", "val", "test"))
    images = settings.steps(int(labelled)) * min(settings.batch_size, labelled)
    images += settings.evaluations * val + test
    first = next(iter(study.pretrain.values()))
    size = settings.size or first.size
    pixels = math.prod(size if len(size) > 1 else size * first.spatial_dims)
    hours = fits * images * pixels * max(per_pixel_s.values()) / 3600
    return Cost("finetune", task, hours, hours, max(c.peak_mb for c in probe.measured.values()), None)


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


def absolute(study: Study) -> dict[str, Any]:
    """The values of the study with absolute paths, because the probe runs elsewhere; except sources, which it copies."""

    def here(holder: dict[str, Any], key: str) -> None:
        if holder.get(key):
            holder[key] = str(Path(holder[key]).expanduser().resolve())

    values = study.model_dump()
    runs = {str(run) for _, run in Dag(study).runs()}
    here(values, "id_key")
    for source in values["sources"].values():
        if source["labels"] != FOLDERS:
            here(source, "labels")
        here(source, "records")
        here(source["prepare"].get("split", {}), "file")
    here(values["prepare"]["split"], "file")
    for arm in values["reduce"]["arms"].values():
        if arm["encoder"] not in runs:
            here(arm, "encoder")
    for run in values["pretrain"].values():
        here(run, "init_weights")
    for task in values["finetune"].values():
        for name in task["weights"]:
            here(task["weights"], name)
    return values


def _room(path: Path) -> int:
    """Bytes of the files of a folder and below."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
