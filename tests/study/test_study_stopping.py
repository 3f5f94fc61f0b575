"""A signal to stop reaches the jobs, and the program ends with the exit code that asks for another try and says how to go on."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rich.console import Console

from medssl.core.failure import Failure, Said, failures
from medssl.core.layout import Layout
from medssl.core.shown import SCREEN, HowFar
from medssl.study import steering
from medssl.study.steering import LOGGER, TO_FILE, TO_TERMINAL, Steering


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What Snakemake's own handlers hear."""
    found: list[int] = []
    before = {number: signal.signal(number, lambda got, _: found.append(got)) for number in (signal.SIGTERM, signal.SIGINT)}
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


class Thing:
    """Attributes, and hashable as Snakemake's jobs are."""

    def __init__(self, **values: Any) -> None:
        self.__dict__ |= values


class OneJob:
    """Snakemake's DAG of one pre-training, numbered 7."""

    def __init__(self, root: Path, *, doing: bool = True) -> None:
        rule = SimpleNamespace(name="pretrain")
        output = [root / "4_pretrain" / "receipt.json"]
        self.job = Thing(rule=rule, log=[str(root / "logs/pretrain/a.log")], output=output, threads=2)
        self.jobs = [self.job, Thing(log=[])]  # a target runs no command
        self.dependencies: dict[Any, Any] = {self.job: {}}
        self.needed = [self.job] if doing else []

    def needrun_jobs(self) -> list[Any]:
        return self.needed

    def jobid(self, job: Any) -> int:
        return 7


@pytest.fixture
def logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """Snakemake's logger with its two handlers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SCREEN, raising=False)
    found = logging.getLogger(LOGGER)
    before, found.handlers, found.propagate = found.handlers, [], False
    found.setLevel(logging.INFO)
    to_terminal, to_file = logging.StreamHandler(io.StringIO()), logging.FileHandler("snakemake.log")
    to_terminal.name, to_file.name = TO_TERMINAL, TO_FILE
    found.addHandler(to_terminal)
    found.addHandler(to_file)
    yield found
    to_file.close()
    found.handlers, found.propagate = before, True
    os.environ.pop(SCREEN, None)


def run_of(tmp_path: Path, console: Console | None, monkeypatch: pytest.MonkeyPatch, quiet: set[str] | None = None) -> Steering:
    monkeypatch.setattr(steering, "on_a_terminal", lambda: console)
    study = SimpleNamespace(study="demo", finetune=[])
    dag: Any = SimpleNamespace(layout=Layout(tmp_path / "results"), study=study, runs=lambda: [], pages=lambda: [])
    return Steering(dag, quiet or set())


def workflow(run: Steering, **more: Any) -> Any:
    return SimpleNamespace(dag=OneJob(run.root, **more), resource_settings=SimpleNamespace(cores=2), local_exec=True)


def waiting(monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[bytes]:
    """A job that waits for its input, and the one child that the program sees: other tests have servers among them."""
    job = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    monkeypatch.setattr(psutil.Process, "children", lambda self: [psutil.Process(job.pid)])
    return job


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_reaches_jobs_that_get_it_from_no_terminal(
    tmp_path: Path,
    heard: list[int],
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    ends: bool,
) -> None:
    run = run_of(tmp_path, None, monkeypatch)
    run.start(workflow(run))
    job = waiting(monkeypatch)
    signal.raise_signal(number)
    if not ends:
        job.communicate(b"")
    assert job.wait(30) == (-signal.SIGTERM if ends else 0) and heard == [number]
    with pytest.raises(SystemExit) as stopped:
        run.fail()
    assert stopped.value.code == 75 and "Continue with the same command:" in capsys.readouterr().err


def test_snakemake_gets_a_signal_once_and_the_third_ctrl_c_kills_the_jobs(
    tmp_path: Path, heard: list[int], logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, None, monkeypatch)
    run.start(workflow(run))
    job = waiting(monkeypatch)
    for _ in range(2):
        signal.raise_signal(signal.SIGINT)
    assert job.poll() is None
    signal.raise_signal(signal.SIGINT)
    assert job.wait(30) == -signal.SIGKILL and heard == [signal.SIGINT]


def screen() -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, force_terminal=True, width=120, height=30, _environ={}), written


def test_without_a_terminal_snakemake_prints_as_usual(
    tmp_path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(logger.handlers)
    run = run_of(tmp_path, None, monkeypatch)
    assert logger.handlers == [*before, run] and SCREEN not in os.environ
    run = run_of(tmp_path, screen()[0], monkeypatch, {"all"})
    assert run.screen is None and os.environ[SCREEN] == "quiet"


def test_on_a_terminal_its_messages_go_to_its_file_and_jobs_are_drawn(
    tmp_path: Path, heard: list[int], logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console, written = screen()
    stale = tmp_path / "results" / "state" / "progress" / "pretrain" / "a.json"
    HowFar("of a job that was killed", 1, 2, "images").write(stale)
    run = run_of(tmp_path, console, monkeypatch)
    assert not stale.exists() and os.environ[SCREEN] == "drawn"
    logger.info("Building DAG of jobs...")
    run.start(workflow(run))
    logger.info("x", extra={"event": "job_info", "jobid": 7})
    HowFar("pretrain a", 64, 2880, "images", 0, 10.0).write(stale)
    (stale.with_suffix(".txt")).write_text("a remark\nhalf a li")
    run.screen._live.refresh()  # type: ignore[union-attr]
    logger.info("x", extra={"event": "job_finished", "job_id": 7})
    run.succeed()
    text = written.getvalue()
    assert "64/2,880 images" in text and "a remark" in text and "half" not in text and "Building" not in text
    assert "Building DAG" in Path("snakemake.log").read_text() and not stale.exists()
    assert "study demo: 1 of 1 jobs done" in capsys.readouterr().err


def test_a_job_that_writes_its_results_keeps_its_full_bar(
    tmp_path: Path, heard: list[int], logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, written = screen()
    run = run_of(tmp_path, console, monkeypatch)
    run.start(workflow(run))
    logger.info("x", extra={"event": "job_info", "jobid": 7})
    bar = tmp_path / "results" / "state" / "progress" / "pretrain" / "a.json"
    HowFar("pretrain a", 2816, 2880, "images", 0, 10.0, "loss 3.2").write(bar)
    run.screen._live.refresh()  # type: ignore[union-attr]
    bar.unlink()
    before = len(written.getvalue())
    run.screen._live.refresh()  # type: ignore[union-attr]
    text = written.getvalue()[before:]
    assert "2,880/2,880 images" in text and "since" not in text and "images/s" not in text
    run.close()


def test_while_jobs_stop_their_last_bars_stay_and_those_that_have_ended_are_marked(
    tmp_path: Path, heard: list[int], logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, written = screen()
    run = run_of(tmp_path, console, monkeypatch)
    run.start(workflow(run))
    logger.info("x", extra={"event": "job_info", "jobid": 7})
    bar = tmp_path / "results" / "state" / "progress" / "pretrain" / "a.json"
    HowFar("pretrain a", 64, 2880, "images", 0, 10.0, "loss 3.2").write(bar)
    run.screen._live.refresh()  # type: ignore[union-attr]
    bar.unlink()  # as the job does once it has saved
    file = run.dag.layout.of_log("failures", tmp_path / "results" / "logs/pretrain/a.log", ".json")
    Failure(file, "pretrain a", tmp_path / "results" / "logs/pretrain/a.log").write(75, "stopped at step 1 of 45 and saved.")
    signal.raise_signal(signal.SIGINT)
    before = len(written.getvalue())
    run.screen._live.refresh()  # type: ignore[union-attr]
    text = written.getvalue()[before:]
    assert "64/2,880 images  stopped" in text and " left" not in text and "images/s" not in text and "loss" not in text
    assert "Ctrl-C again" in text and "Ctrl-C saves" not in text
    run.close()


def test_what_stops_snakemake_itself_is_shown_with_its_log(
    tmp_path: Path, heard: list[int], logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console, written = screen()
    run = run_of(tmp_path, console, monkeypatch)
    logger.error("MissingInputException: no file", extra={"event": "error"})
    assert "MissingInputException: no file" in written.getvalue()
    run.start(workflow(run))
    logger.error("WorkflowError: while jobs ran", extra={"event": "error"})
    run.close()  # as Snakemake does where no hook is called
    said = capsys.readouterr().err
    assert "medssl: WorkflowError: while jobs ran" in said and "Snakemake log: snakemake.log" in said


def test_if_the_jobs_cannot_be_followed_snakemake_prints_as_usual(
    tmp_path: Path, heard: list[int], logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(logger.handlers)
    run = run_of(tmp_path, screen()[0], monkeypatch)
    run.start(SimpleNamespace(dag=SimpleNamespace()))
    assert set(before) < set(logger.handlers) and SCREEN not in os.environ and not run.drawn
    assert "plain lines instead" in capsys.readouterr().err
    run.succeed()


def test_nothing_to_do_names_what_is_there(
    tmp_path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(tmp_path, screen()[0], monkeypatch)
    logger.info("Nothing to be done (all requested files are present and up to date).")
    assert "study demo: nothing to be done" in capsys.readouterr().err


def test_failures_of_the_run_before_are_forgotten(
    tmp_path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path / "results")
    file = layout.of_log("failures", "logs/pretrain/a.log", ".json")
    file.parent.mkdir(parents=True)
    file.write_text('{"job": "pretrain a", "exit_code": 3, "sentence": "x"}')
    assert failures(layout) == [Said("pretrain a", 3, "x")]
    run_of(tmp_path, None, monkeypatch)
    assert failures(layout) == []
