"""`medssl plan`: a small piece of every source goes through the real stages in a temporary folder, and is measured."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from medssl.core import gpus, tables
from medssl.core.dag import Dag
from medssl.core.errors import MedsslError
from medssl.core.files import read_json, write_json
from medssl.core.listing import walk
from medssl.core.planning import MB, Cost, Measured, grown, largest_batch, num_fits, peak_at, steps
from medssl.core.study import Study, load_study

PIECES = (1, 3)
"""How many folders of a source each of the two probes takes."""
PROBE_STEPS = 4
STEPS_OF = {"ingest": ("scan", "convert", "merge"), "reduce/describe": ("describe",), "reduce/leakage": ("leakage",)}


def costs(study: Study, threads: int) -> tuple[list[Cost], dict[str, int]]:
    """What each stage of the study will take on this machine, and the largest batch of each pre-training that fits it."""
    sizes = {name: _bytes(name, source.path) for name, source in study.sources.items()}
    with tempfile.TemporaryDirectory(prefix="medssl-plan-") as folder:
        probes = [_Probe(Path(folder) / str(count), study, count, threads) for count in PIECES]
        for probe in probes:
            probe.run_cheap_stages()
        found = [_cheap(probes, stage, name, sizes) for stage, name in probes[0].cheap]
        batches: dict[str, int] = {}
        per_pixel_s: dict[str, float] = {}
        for name in study.pretrain:
            tried = _Tried(probes[1], name)
            found += [_pretraining(study, probes[1], tried, cohort, run, sizes) for cohort, run in tried.runs]
            batches[name], per_pixel_s[name] = tried.largest_batch(), tried.per_pixel_s()
        found += [_finetuning(study, probes[1], task, sizes, per_pixel_s) for task in study.finetune]
    return found, batches


class _Probe:
    """A piece of the study in a folder of its own."""

    def __init__(self, folder: Path, study: Study, count: int, threads: int) -> None:
        self.folder, self.threads = folder, threads
        values = _absolute(study.model_dump())
        self.sizes: dict[str, float] = {}
        for name, source in study.sources.items():
            values["sources"][name]["path"], self.sizes[name] = _piece(name, source.path, folder / "sources" / name, count)
        values["output"] = "results"
        for run in values["pretrain"].values():
            run |= {"devices": 1, "nodes": 1, "max_steps": PROBE_STEPS, "tensorboard": False, "init_run": None}
        values["ingest"] |= {"shards": 1, "max_refused_frac": 1.0}
        self.study = load_study(values)
        self.measured: dict[tuple[str, str], Measured] = {}
        with contextlib.chdir(folder):
            self.dag = Dag(self.study)
            self.dag.refresh_sources()
            self.dag.write_specs()

    @property
    def cheap(self) -> list[tuple[str, str]]:
        """(stage, name) of the jobs before pre-training, in an order in which each finds what it reads."""
        found = [spec for _, spec in self.dag.specs() if spec.stage in ("ingest", "prepare", "reduce")]
        found = [spec for spec in found if not {"encoder", "encoders"} & set(spec.inputs)]  # those wait for a pre-training
        found.sort(key=lambda spec: spec.stage == "reduce" and "match" in spec.inputs)  # after the arm whose count they take
        return [(spec.stage, spec.name) for spec in found]

    def run_cheap_stages(self) -> None:
        """Ingest, prepare and reduce."""
        for stage, name in self.cheap:
            step_names = STEPS_OF.get(f"{stage}/{name.split('/')[-1]}", STEPS_OF.get(stage, (None,)))
            if stage == "ingest" and name.endswith("/labels"):
                step_names = ("labels",)
            for step in step_names:
                self.run(stage, name, step)

    def run(self, stage: str, name: str, step: str | None = None, spec: str | None = None) -> Measured:
        """One job; what it took is added to what the job's steps before it took."""
        path = spec or self.dag.layout.spec(stage, name)
        command = [sys.executable, "-m", "medssl", stage, path, "--threads", str(self.threads)]
        command += ["--step", step] if step else []
        began_s = time.monotonic()
        with open(self.folder / "log", "w+") as log:
            process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            if process.returncode:
                raise MedsslError(f"the probe of {stage} {name} failed, as the study would: {log.read().strip()[-600:]}")
        before = self.measured.get((stage, name), Measured(0, 0, 0, 0))
        self.measured[stage, name] = Measured(
            self.size_of(name),
            before.wall_s + time.monotonic() - began_s,
            max(before.peak_mb, usage.ru_maxrss / 1024),
            _room(self.folder / self.out(stage, name)) / MB,
        )
        return self.measured[stage, name]

    def out(self, stage: str, name: str) -> str:
        """The output folder of a job."""
        return dict(self.dag.specs())[self.dag.layout.spec(stage, name)].out

    def keep(self, cohort: str, run: str) -> Path:
        """The table of what a run's arm kept."""
        _, arm, _ = self.dag.pretrain_of(run)
        return self.folder / self.dag.layout.reduce(cohort, arm, "keep.parquet")

    def has_kept(self, cohort: str, run: str) -> bool:
        """Whether the arm of a run could be probed."""
        return self.keep(cohort, run).is_file()

    def samples(self, cohort: str, run: str) -> int:
        """How many samples a run trains on."""
        if not self.has_kept(cohort, run):  # an arm that waits for a pre-training: at most all
            return sum(self.labelled(source) for source in self.study.all_cohorts[cohort])
        return int(tables.read_parquet(self.keep(cohort, run))["keep"].sum())

    def labelled(self, source: str) -> int:
        """How many samples of a source may be trained on."""
        return int(
            (tables.read_parquet(self.folder / self.dag.layout.prepare(source, "samples.parquet"))["split"] == "train").sum()
        )

    def with_batch(self, name: str, batch: int) -> str:
        """The spec of a pre-training with another batch."""
        path = self.folder / self.dag.layout.spec("pretrain", name)
        values = read_json(path)
        values["settings"]["batch_size"] = batch
        changed = path.with_name(f"{path.stem}-{batch}.json")
        write_json(changed, values)
        return str(changed)

    def size_of(self, name: str, sizes: dict[str, float] | None = None) -> float:
        """Source bytes that a job is about."""
        first = name.split("/")[0]
        return sum((sizes or self.sizes)[source] for source in self.study.all_cohorts[first])


def _cheap(probes: list[_Probe], stage: str, name: str, sizes: dict[str, float]) -> Cost:
    small, large = (probe.measured[stage, name] for probe in probes)
    whole = grown(small, large, probes[1].size_of(name, sizes))
    return Cost(stage, name, whole.wall_s / 3600, whole.wall_s / 3600, whole.peak_mb, whole.disk_mb)


class _Tried:
    """A pre-training of a few steps at two batches, the second twice the first."""

    def __init__(self, probe: _Probe, name: str) -> None:
        self.settings = probe.study.pretrain[name]
        self.runs = [(cohort, run) for cohort, run in probe.dag.runs() if run.split("-")[0] == name]
        cohort, run = next((pair for pair in self.runs if probe.has_kept(*pair)), self.runs[0])
        batch = (
            min(self.settings.batch_size, probe.samples(cohort, run)) // (2 * self.settings.accumulate) * self.settings.accumulate
        )
        self.batches = [batch, 2 * batch]
        self.ram_mb, self.gpu_mb = [], []
        for tried in self.batches:
            self.took = probe.run("pretrain", f"{cohort}/{run}", spec=probe.with_batch(f"{cohort}/{run}", tried))
            self.ram_mb.append(self.took.peak_mb)
            receipt = read_json(probe.folder / probe.dag.layout.pretrain(cohort, run, "receipt.json"))
            self.gpu_mb.append(float(receipt.get("gpu_peak_mb", 0)))
        curve = tables.read_tsv(probe.folder / probe.dag.layout.pretrain(cohort, run, "curve.tsv"))
        rates = curve["images_per_s"].tolist()
        self.per_image_s = 1 / median(rates[1:])  # the first step warms up
        self.start_s = max(0.0, self.took.wall_s - PROBE_STEPS * self.batches[1] * self.per_image_s)

    def largest_batch(self) -> int:
        """The largest batch that the GPU holds, or the memory of the machine."""
        if self.gpu_mb[1]:
            return largest_batch(self.batches, self.gpu_mb, gpus.memory_mb())
        return largest_batch(self.batches, self.ram_mb, psutil.virtual_memory().available / MB)

    def per_pixel_s(self) -> float:
        """Seconds for a pixel of a view; a sample has two views or more."""
        size = self.settings.size
        return self.per_image_s / 2 / math.prod(size if len(size) > 1 else size * self.settings.spatial_dims)


def _pretraining(study: Study, probe: _Probe, tried: _Tried, cohort: str, run: str, sizes: dict[str, float]) -> Cost:
    settings = study.pretrain[run.split("-")[0]]
    samples = probe.samples(cohort, run) * probe.size_of(cohort, sizes) / probe.size_of(cohort)
    batch = min(settings.batch_size, samples)
    processes = settings.devices * settings.nodes
    hours = (tried.start_s + steps(settings, samples) * batch * tried.per_image_s / processes) / 3600
    share = batch / processes / settings.accumulate
    ram_mb, gpu_mb = (peak_at(share, tried.batches, peaks) for peaks in (tried.ram_mb, tried.gpu_mb))
    return Cost("pretrain", f"{cohort}/{run}", hours, hours * settings.nodes, ram_mb, tried.took.disk_mb, gpu_mb)


def _finetuning(study: Study, probe: _Probe, task: str, sizes: dict[str, float], per_pixel_s: dict[str, float]) -> Cost:
    """From the pixels all fits see, at the speed of pre-training: fits of one mode cost less, so that this is an upper bound."""
    settings = study.finetune[task]
    fits = num_fits(settings, len(probe.dag.runs_for(settings)))
    labelled = probe.labelled(settings.source) * sizes[settings.source] / probe.sizes[settings.source]
    batches = max(1, labelled // settings.batch_size)
    images = (settings.max_steps or settings.epochs * batches) * min(settings.batch_size, labelled)
    first = next(iter(study.pretrain.values()))
    size = settings.size or first.size
    pixels = math.prod(size if len(size) > 1 else size * first.spatial_dims)
    hours = fits * images * pixels * max(per_pixel_s.values()) / 3600
    return Cost("finetune", task, hours, hours, max(c.peak_mb for c in probe.measured.values()), 0.0)


def _piece(name: str, path: str, target: Path, count: int) -> tuple[str, float]:
    """A copy of `count` typical folders of a source; a single file is taken as it is."""
    root = Path(path).resolve()
    if root.is_file():
        return str(root), float(root.stat().st_size)
    folders: dict[str, list[tuple[str, int]]] = {}
    for relative, size, _, kind in walk(name, str(root)):
        if kind == "file":
            folders.setdefault(str(Path(relative).parent), []).append((relative, size))
    typical = median(len(files) for files in folders.values())
    chosen = sorted(folders.values(), key=lambda files: (abs(len(files) - typical), files))[:count]
    for relative, _ in (file for files in chosen for file in files):
        copy = target / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / relative, copy)
    return str(target), float(sum(size for files in chosen for _, size in files))


def _bytes(name: str, path: str) -> float:
    return float(sum(row[1] for row in walk(name, path) if row[3] == "file"))


def _absolute(values: dict[str, Any]) -> dict[str, Any]:
    """The study's values with every path it names made absolute, as the probe runs elsewhere."""
    for source in values["sources"].values():
        source["labels"] = source["labels"] and str(Path(source["labels"]).resolve())
    values["id_key"] = values["id_key"] and str(Path(values["id_key"]).resolve())
    for run in values["pretrain"].values():
        run["init_weights"] = run["init_weights"] and str(Path(run["init_weights"]).resolve())
    return values


def _room(path: Path) -> int:
    """Bytes of the files of a folder and below."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
