"""What the user sees of one run of Snakemake on a study: a screen on a terminal, plain lines elsewhere, and the last lines."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from medssl.core.failure import failures
from medssl.core.shown import SCREEN, HowFar
from medssl.study import last_lines
from medssl.study.dag import Dag
from medssl.study.followed import Jobs
from medssl.study.screen import Screen, Seen, now_s, on_a_terminal
from medssl.study.time_left import PLAN, planned_s, time_left

LOGGER, TO_TERMINAL, TO_FILE = "snakemake.logging", "DefaultStreamHandler", "DefaultLogFileHandler"
"""Names of Snakemake's logger and of its two handlers."""
NOTHING_TO_DO = "Nothing to be done"


class Steering(logging.Handler):
    """Follows a run through Snakemake's log; `quiet`: the values of `--quiet`.

    If standard error is a terminal, it draws the screen, and Snakemake's own messages go only to its log file. Before the first
    job and after the last one, Snakemake's warnings and errors are still shown.
    """

    def __init__(self, dag: Dag, quiet: set[str]) -> None:
        super().__init__()
        self.dag, self.jobs = dag, Jobs()
        self.root, self.study = dag.layout.root, dag.study.study
        self.signalled = False
        self.began_s, self.oom_kills = now_s(), last_lines.oom_kills()
        self.cores: int | None = None
        self.planned: dict[Path, float] = {}
        self.heard: dict[Path, int] = {}
        self.bars: dict[int, HowFar] = {}
        self.screen: Screen | None = None
        logger = logging.getLogger(LOGGER)
        handlers = {handler.name: handler for handler in logger.handlers}
        self.file = getattr(handlers.get(TO_FILE), "baseFilename", "")
        shutil.rmtree(self.root / "state" / "progress", ignore_errors=True)  # of jobs that were killed
        shutil.rmtree(self.root / "state" / "failures", ignore_errors=True)
        shutil.rmtree(dag.layout.private(".output", ""), ignore_errors=True)
        console = on_a_terminal()
        if quiet & {"all", "progress"}:
            os.environ[SCREEN] = "quiet"
        elif console is not None and TO_TERMINAL in handlers:
            self.screen = Screen(self._look, console)
            os.environ[SCREEN] = "drawn"
            self.to_terminal = handlers[TO_TERMINAL]
            logger.removeHandler(self.to_terminal)
        self.drawn = False
        logger.addHandler(self)

    # Snakemake's hooks

    def start(self, workflow: Any) -> None:
        """Start the screen: the DAG is known, and the first job is about to start."""
        self.began_s = now_s()
        self._stop_on_signals()
        try:
            self.jobs = Jobs.of(workflow.dag)
            self.cores = int(workflow.resource_settings.cores or 0) or None if workflow.local_exec else None
        except Exception as error:  # another version of Snakemake may have another DAG
            self._leave_it_to_snakemake(f"{type(error).__name__}: {error}")
        self.planned = planned_s(self.root / "state" / PLAN, self.jobs)
        if self.screen is not None:
            self.screen.open()
            self.drawn = True

    def succeed(self) -> None:
        """Name the results: all jobs are done."""
        self._close_screen()
        self._end([f"{self._counted()}.", *last_lines.made(self.dag)])

    def fail(self) -> None:
        """Report failed or stopped jobs, with reasons and how to continue, and exit with the code of docs/reference/errors.md.

        Raises:
            SystemExit: with that code.
        """
        self._close_screen()
        said = failures(self.dag.layout)
        code = last_lines.exit_code(said, signalled=self.signalled)
        if code == last_lines.PreemptedError.exit_code:
            command = last_lines.typed(sys.argv, dict(os.environ))
            self._end([f"{self._counted()}, then stopped.", *last_lines.stopped(said, self.jobs, command)])
        else:
            self._say_what_failed()
        raise SystemExit(code)

    def close(self) -> None:
        """Snakemake closes its handlers. A screen that is still open means that no hook was called."""
        if self.drawn:
            self._close_screen()
            self._say_what_failed()
        super().close()

    # Snakemake's log

    def emit(self, record: logging.LogRecord) -> None:
        """Take in a record of Snakemake's log; an error here must not stop a job."""
        try:
            self._hear(record)
        except Exception:
            self.handleError(record)

    def _hear(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        values = record.__dict__
        self.jobs.hear(None if event is None else str(event), values, now_s(), signalled=self.signalled)
        if self.screen is None:
            return
        text = str(record.msg or "")
        job = self.jobs.by_number.get(values.get("jobid", values.get("job_id", -1)))
        if job is not None and event == "job_info":
            self.bars.pop(job.number, None)  # of an earlier try
        if job is not None and event in ("job_finished", "job_error"):
            self._shown(job.log, ".json").unlink(missing_ok=True)
        if event == "job_error" and job is not None and not self.signalled:
            self.screen.say(f"failed: {job.title}", "red")
        elif text.startswith(NOTHING_TO_DO):
            self._end([f"study {self.study}: nothing to be done.", *last_lines.made(self.dag)])
        elif not self.drawn and (event == "error" or (event is None and record.levelno >= logging.WARNING)):
            self.screen.say(text, "red" if record.levelno >= logging.ERROR else "yellow")

    # What is drawn

    def _look(self) -> Seen:
        self._say_remarks()
        now = now_s()
        found = {job.number: HowFar.read(self._shown(job.log, ".json")) for job in self.jobs.doing("running")}
        bars = {number: bar for number, bar in found.items() if bar is not None}
        self.bars |= bars
        left = {number: bar.left_s for number, bar in bars.items() if bar.left_s is not None}
        spent_s = now - self.began_s
        end = time_left(self.jobs, now, bars=left, planned=self.planned, cores=self.cores)
        bars = self._last_bars({} if self.signalled else bars)
        return Seen(self.study, self.jobs, bars, end, spent_s, now, _short(self.file), self.signalled)

    def _last_bars(self, bars: dict[int, HowFar]) -> dict[int, HowFar]:
        """These bars; and for running jobs without one, the last, without rate and time left. Stopped jobs are marked.

        A job has no bar while it writes its results: the last one is then full. It has none either once it was asked to stop.
        """
        ended = {failure.log for failure in failures(self.dag.layout)}
        found = dict(bars)
        for job in self.jobs.doing("running"):
            if job.number in self.bars and job.number not in bars:
                last = self.bars[job.number]
                done = last.done if self.signalled else last.total
                found[job.number] = replace(last, done=done, before=done, note="stopped" if str(job.log) in ended else "")
        return found

    def _shown(self, log: Path, suffix: str) -> Path:
        return self.dag.layout.of_log("progress", log, suffix)

    def _say_remarks(self) -> None:
        """Print the new remarks of jobs."""
        for file in sorted((self.root / "state" / "progress").glob("*/*.txt")):
            with suppress(OSError), open(file, encoding="utf-8", errors="replace") as lines:
                lines.seek(self.heard.get(file, 0))
                text = lines.read()
                whole = text[: text.rfind("\n") + 1]
                self.heard[file] = self.heard.get(file, 0) + len(whole.encode())
            for line in whole.splitlines():
                if self.screen is not None:
                    self.screen.say(line)

    def _leave_it_to_snakemake(self, why: str) -> None:
        """Draw nothing, as without a terminal."""
        if self.screen is not None:
            self.screen = None
            del os.environ[SCREEN]
            logging.getLogger(LOGGER).addHandler(self.to_terminal)
            self._end([f"medssl: note: this version of Snakemake allows no screen ({why}); plain lines instead"])

    def _close_screen(self) -> None:
        if self.screen is not None and self.drawn:
            self.drawn = False
            self.screen.close()
            self._say_remarks()  # those that came after the last look

    def _counted(self) -> str:
        return last_lines.counted(self.study, self.jobs, now_s() - self.began_s, failures(self.dag.layout))

    def _say_what_failed(self) -> None:
        kills = last_lines.oom_kills() - self.oom_kills
        lines = [f"{self._counted()}.", *last_lines.failed(failures(self.dag.layout), self.jobs, self.dag.layout, kills)]
        self._end([*lines, *([f"Snakemake log: {_short(self.file)}"] if self.screen is not None else [])])

    def _end(self, lines: list[str]) -> None:
        for line in lines:
            print(line, file=sys.stderr, flush=True)

    # Signals

    def _stop_on_signals(self) -> None:
        """From here on, a signal to stop ends this program with exit code 75, and SIGTERM also ends its jobs.

        Snakemake itself would let the jobs that run finish first, which may take days. Ctrl-C reaches them from the terminal.
        Snakemake gets each signal once: while it waits for its jobs, another one would end it with a traceback and leave them
        alone. The third Ctrl-C kills the jobs.
        """
        times: Counter[int] = Counter()

        def stop(number: int, frame: Any, snakemakes: Callable[[int, Any], Any]) -> None:
            self.signalled = True
            times[number] += 1
            if number == signal.SIGTERM:
                _end_children(psutil.Process.terminate)
            elif times[number] > 2:
                _end_children(psutil.Process.kill)
            if times[number] == 1:
                snakemakes(number, frame)

        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            if callable(before):  # an ignored signal stays ignored
                signal.signal(number, partial(stop, snakemakes=before))


def _end_children(end: Callable[[psutil.Process], None]) -> None:
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            end(child)


def _short(path: str) -> str:
    """A path relative to the working folder, if it lies below it."""
    with suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path
