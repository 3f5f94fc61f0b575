"""Runs one step of a stage from its spec file, within its threads and time, and records why it failed or stopped."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
import traceback
from pathlib import Path
from typing import Any

from medssl.core import cluster, gpus, launch
from medssl.core.errors import MedsslError, PreemptedError, StudyError
from medssl.core.failure import Failure
from medssl.core.job import Spec, job
from medssl.core.shown import leave_the_terminal

LEFT_BEHIND = {
    "ingest": "Its finished volumes are kept.",
    "reduce": "Its finished volumes are kept.",
    "pretrain": "It resumes from the last saved state, if there is one.",
    "finetune": "Its finished fits are kept.",
}
"""What an interrupted job keeps for the next try; the other stages start again."""


def run_step(stage: str, step: str, spec_path: Path, log: Path | None, threads: int, **arguments: Any) -> None:
    """Run one step of a stage; its module is imported only now.

    Raises:
        StudyError: the spec is of another stage or step.
        MedsslError: the step failed or was stopped; the reason is also in its log and in a file for the screen of the study.
    """
    spec = Spec.read(spec_path)
    if spec.stage != stage:
        raise StudyError(
            f"{spec_path} is a spec of stage {spec.stage!r}, expected {stage!r}: run `medssl {spec.stage} {spec_path}`."
        )
    _require_step(spec, step, spec_path)
    # ingest computes in reading processes, each slice in one thread
    limit_threads(1 if stage == "ingest" else threads)
    part = "-".join(str(value) for value in arguments.values())
    margin_s = spec.machine.stop_before_deadline_s
    if log is not None:
        leave_the_terminal(spec.layout.output(log), remarks=spec.layout.of_log("progress", log, ".txt"))
    failure = Failure.of(spec, log)
    started_s = time.time()
    first = launch.rank(spec) == 0
    try:
        with cluster.time_limit(margin_s, warn=stage == "finetune"), gpus.lease(_gpus(spec)):
            launch.spread(spec, threads)
            with job(spec, part=part, log_path=log, threads=threads, joins=not first) as work:
                if not work.restore():
                    getattr(importlib.import_module(f"medssl.{stage}.run"), step)(work, **arguments)
        failure.forget()  # of a try before this one
    except MedsslError as error:
        if not first:
            if isinstance(error, PreemptedError):
                launch.let_the_first_end()
            raise
        _append(log, f"stopped: {error}")
        if isinstance(error, PreemptedError) and cluster.requeue(margin_s, started_s):
            _append(log, "the time of this SLURM job is nearly up: it was put back into the queue")
        failure.write(error.exit_code, str(error))
        raise
    except KeyboardInterrupt:
        stopped = PreemptedError(f"stopped by SIGINT. {LEFT_BEHIND.get(stage, 'It starts again.')}")
        _append(log, f"stopped: {stopped}")
        failure.write(stopped.exit_code, str(stopped))
        raise stopped from None
    except Exception as error:
        # An unexpected message may quote a file or a header, which ingest must keep to itself.
        trace = traceback.format_tb(error.__traceback__)
        said = type(error).__name__ + ("" if stage == "ingest" else f": {error}")
        _append(log, "".join(trace) + said)
        failure.write(1, f"an unexpected error: {said}", trace=[*trace[-1].splitlines(), said])
        raise


def _require_step(spec: Spec, step: str, path: Path) -> None:
    """Compare the step with that in the name of the spec, for stages with several steps.

    Raises:
        StudyError: the spec is of another step.
    """
    _, *below = spec.name.split("/")
    last = below[-1] if below else ""
    wanted: tuple[str, ...]
    if spec.stage == "reduce":
        wanted = (last,) if last in ("describe", "leakage") else ("run",)
    elif spec.stage == "ingest":
        wanted = {"labels": ("labels",), "records": ("record",)}.get("".join(below[:1]), ("scan", "convert", "merge"))
    else:
        return
    if step not in wanted:
        steps = " or ".join(wanted)
        raise StudyError(f"{path} is a spec of step {steps}, got {step}: run `medssl {spec.stage} {path} --step {wanted[0]}`.")


def _gpus(spec: Spec) -> int:
    """The number of GPUs that a job uses; 0 on several nodes, for which SLURM assigns them."""
    return spec.machine.processes if spec.machine.gpus and spec.machine.nodes == 1 else 0


def limit_threads(threads: int) -> None:
    """Limit numerical libraries to the threads of the job; must run before they are imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(threads)


def _append(log: Path | None, text: str) -> None:
    if log is not None:
        with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
            print(text, file=file)
