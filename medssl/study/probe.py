"""A small piece of a study in a temporary folder, on which jobs are tried and measured."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medssl.artefacts.names import Run
from medssl.artefacts.series import REJECTED
from medssl.core import tables
from medssl.core.errors import MedsslError, StudyError, TooManyRefusalsError
from medssl.core.files import read_json, write_json
from medssl.core.label_table import FOLDERS
from medssl.study.dag import Dag
from medssl.study.file import load_study
from medssl.study.options import Study
from medssl.study.piece import Piece, piece
from medssl.study.planning import MB, Measured
from medssl.study.sources import refresh_sources

PROBE_STEPS = 4
STEPS_OF = {"ingest": ("scan", "convert", "merge"), "reduce/describe": ("describe",), "reduce/leakage": ("leakage",)}


Report = Callable[[str], None]


class OutOfTimeError(MedsslError):
    """The time of all trials is over; the message is the job that was tried last."""


class RefusedTrialError(StudyError):
    """A job refuses the piece or the options of its trial; with its message."""


def cheap_jobs(dag: Dag) -> list[tuple[str, str]]:
    """(stage, name) of the jobs before pre-training, each after those that it depends on."""
    found = [spec for _, spec in dag.specs() if spec.stage in ("ingest", "prepare", "reduce")]
    found = [spec for spec in found if not {"encoder", "encoders"} & set(spec.inputs)]  # those wait for a pre-training
    found.sort(key=lambda spec: spec.stage == "reduce" and "match" in spec.inputs)  # after the arm whose count they use
    return [(spec.stage, spec.name) for spec in found]


class Probe:
    """A piece of the study in a separate folder, and what its jobs took."""

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
            objective = run["objective"]  # its steps may be more than those of a trial
            objective["options"] = {name: value for name, value in objective["options"].items() if not name.endswith("_steps")}
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

    def run_cheap_stages(self) -> None:
        """Ingest, prepare and reduce."""
        for stage, name in cheap_jobs(self.dag):
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
        command = [sys.executable, "-m", "medssl", "--stop-with-parent", stage, path, "--threads", str(self.threads)]
        command += ["--step", step] if step else []
        began_s = time.monotonic()
        with open(self.folder / "log", "w+") as log:
            process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
            late = threading.Timer(max(0.0, self.deadline_s - began_s), process.kill)
            late.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:  # a signal to this process alone would leave the trial running
                process.kill()
                process.wait()
                raise
            finally:
                late.cancel()  # else Ctrl-C would wait for it
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode and time.monotonic() > self.deadline_s:
                self.measured.pop((stage, name), None)  # of its steps some were not run
                raise OutOfTimeError(f"{stage} {name}")
            log.seek(0)
            if process.returncode == TooManyRefusalsError.exit_code:
                raise TooManyRefusalsError(self.met(name))
            if process.returncode:
                said = log.read().replace(f"{self.folder}/", "").strip()[-600:]
                failure = RefusedTrialError if process.returncode == StudyError.exit_code else MedsslError
                raise failure(f"the probe of {stage} {name} failed on {self.pieces_in_words(name)}: {said}")
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
