"""A job knows when its SLURM time ends, and asks to be requeued then and only then."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import ClassVar

import pytest

from medssl.core import cluster


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`squeue` says what the file `end` holds, `scontrol` notes what it was asked; the process is SLURM job 7."""
    for name, line in (("squeue", f"cat {tmp_path}/end"), ("scontrol", f'echo "$@" >> {tmp_path}/asked')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv(cluster.END_TIME, raising=False)
    return tmp_path


def ends_in(folder: Path, seconds: float) -> int:
    """Let SLURM say that the job ends in so many seconds; the Unix time of that."""
    end_s = int(time.time() + seconds)
    (folder / "end").write_text(datetime.fromtimestamp(end_s).isoformat(timespec="seconds") + "\n")
    return end_s


def test_the_end_is_asked_of_slurm_where_the_environment_does_not_say_it(fake_slurm: Path) -> None:
    end_s = ends_in(fake_slurm, 3600)
    with cluster.time_limit(120):
        assert int(os.environ[cluster.END_TIME]) == end_s


@pytest.mark.parametrize("answer", ["N/A\n", "Unknown\n", "", "slurm_load_jobs error\n"])
def test_a_job_without_an_end_runs_on(fake_slurm: Path, answer: str) -> None:
    (fake_slurm / "end").write_text(answer)
    with cluster.time_limit(120):
        assert cluster.END_TIME not in os.environ
    assert not cluster.requeue(120, time.time())


def test_outside_slurm_nothing_is_asked(fake_slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    ends_in(fake_slurm, 10)
    assert cluster.end_time_s() is None and not cluster.requeue(120, 0.0)
    assert not (fake_slurm / "asked").exists()


@pytest.mark.parametrize(
    ("left_s", "ran_s", "wanted"),
    [
        (60, 3600, True),  # the time is nearly up
        (3000, 600, False),  # stopped by a signal long before: SLURM or Snakemake decides
        (60, 10, False),  # the whole time is shorter than the margin: it would be requeued for ever
    ],
)
def test_only_a_job_whose_time_is_up_is_requeued(fake_slurm: Path, left_s: float, ran_s: float, wanted: bool) -> None:
    ends_in(fake_slurm, left_s)
    assert cluster.requeue(120, time.time() - ran_s) is wanted
    assert (fake_slurm / "asked").exists() is wanted
    if wanted:
        assert (fake_slurm / "asked").read_text() == "requeue 7\n"


class Alarm:
    """A timer that rings when the test rings it."""

    made: ClassVar[list[Alarm]] = []

    def __init__(self, wait_s: float, function: Callable[..., None], arguments: tuple[int, ...]) -> None:
        self.wait_s, self.ring = wait_s, lambda: function(*arguments)
        self.running = self.daemon = False
        Alarm.made.append(self)

    def start(self) -> None:
        self.running = True

    def cancel(self) -> None:
        self.running = False


@pytest.mark.parametrize(("left_s", "warned"), [(3600, True), (60, False)])
def test_work_that_does_not_look_at_the_clock_is_warned_by_a_signal(
    fake_slurm: Path, monkeypatch: pytest.MonkeyPatch, left_s: int, warned: bool
) -> None:
    monkeypatch.setattr(cluster.threading, "Timer", Alarm)
    monkeypatch.setattr(cluster.time, "time", lambda now_s=time.time(): now_s)
    end_s = ends_in(fake_slurm, left_s)
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: caught.append(number))
    try:
        with cluster.time_limit(120.0, warn=True):
            alarm = Alarm.made.pop()
            assert alarm.running is warned and alarm.daemon
            assert alarm.wait_s == max(end_s - 120 - time.time(), 0)
            alarm.ring()
        assert caught == [signal.SIGUSR1] and not alarm.running
    finally:
        signal.signal(signal.SIGUSR1, before)
