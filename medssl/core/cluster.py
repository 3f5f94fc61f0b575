"""What a running job asks of SLURM: when its time ends, and to requeue it if that is too early."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime

END_TIME = "SLURM_JOB_END_TIME"
ANSWER_S = 30.0
"""How long a SLURM command may take before the job continues without its answer."""


@contextlib.contextmanager
def time_limit(margin_s: float, *, warn: bool = False) -> Iterator[None]:
    """Inside, `SLURM_JOB_END_TIME` says when this SLURM job ends, even if SLURM or Snakemake did not pass it on.

    With `warn` the process gets SIGUSR1 `margin_s` before that, for work that does not look at the clock itself.
    """
    end_s = end_time_s()
    if end_s is None:
        yield
        return
    os.environ[END_TIME] = str(int(end_s))
    alarm = threading.Timer(max(end_s - margin_s - time.time(), 0), os.kill, (os.getpid(), signal.SIGUSR1))
    alarm.daemon = True
    if warn and end_s - time.time() > margin_s:
        alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


def is_near_its_end(margin_s: float) -> bool:
    """Whether this SLURM job ends within `margin_s`, from the time that `time_limit` noted; cheap enough to ask at every step."""
    said = os.environ.get(END_TIME, "")
    return said.isdigit() and time.time() > int(said) - margin_s


def end_time_s() -> float | None:
    """The Unix time at which SLURM stops this job; None outside a job, or if it has no limit."""
    said = os.environ.get(END_TIME, "")
    if said.isdigit():
        return float(said)
    answer = _ask("squeue", "--noheader", f"--jobs={_job_id()}", "--format=%e") if _job_id() else None
    try:
        return datetime.fromisoformat((answer or "").strip()).timestamp()
    except ValueError:  # N/A, Unknown, or no answer
        return None


def requeue(margin_s: float, started_s: float) -> bool:
    """Requeue this SLURM job if it stopped because its time is nearly up; True if SLURM agreed.

    A job whose whole time is below the margin is not requeued: that would repeat for ever.
    """
    end_s = end_time_s()
    if end_s is None or time.time() < end_s - margin_s - 1 or started_s >= end_s - margin_s:
        return False
    return _ask("scontrol", "requeue", _job_id()) is not None


def in_allocation() -> bool:
    """True inside a SLURM job, batch step or srun step."""
    return bool(_job_id())


def _job_id() -> str:
    job_id = os.environ.get("SLURM_JOB_ID", "")
    return job_id if job_id.isdigit() else ""


def _ask(program: str, *arguments: str) -> str | None:
    """The output of a SLURM command; None if it is missing, fails, or does not answer."""
    path = shutil.which(program)
    if path is None:
        return None
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=ANSWER_S)
        return done.stdout if done.returncode == 0 else None
    return None
