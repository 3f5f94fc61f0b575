"""Live progress: one bar with rate and time left on a terminal, plain lines elsewhere, the same lines in the log."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PLAIN_EVERY_S = 10.0


class Bar:
    """Progress of one job. `advance` is cheap; it draws at most a few times a second."""

    def __init__(self, title: str, total: int, unit: str, log: IO[str] | None, rich_bar: object | None) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._before = 0
        self._log, self._rich = log, rich_bar
        self._start_s = self._last_s = time.monotonic()
        self._note = ""

    def resume(self, done: int) -> None:
        """Count `done` units of an earlier run towards the job's progress, but not its rate."""
        self.done = self._before = done
        self._start_s = time.monotonic()
        self._draw(self._start_s)

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done; `note` is a short text such as `loss 3.21`."""
        self.done += count
        self._note = note or self._note
        now_s = time.monotonic()
        self._draw(now_s)
        if now_s - self._last_s >= PLAIN_EVERY_S:
            self._last_s = now_s
            self._write(now_s)

    def finish(self) -> None:
        """The last line, with the whole time."""
        now_s = time.monotonic()
        self._write(now_s, final=True)

    def _draw(self, now_s: float) -> None:
        if self._rich is not None:
            self._rich.update(0, completed=self.done, total=self.total, note=self._note, rate=self._rate(now_s))  # type: ignore[attr-defined]

    def _rate(self, now_s: float) -> str:
        rate = (self.done - self._before) / max(now_s - self._start_s, 1e-6)
        return f"{rate:.1f} {self.unit}/s" if rate < 100 else f"{rate:.0f} {self.unit}/s"

    def _write(self, now_s: float, *, final: bool = False) -> None:
        spent_s = now_s - self._start_s
        new = self.done - self._before
        left = f"{spent_s / new * (self.total - self.done):.0f} s left" if new else "time left unknown"
        tail = f"{spent_s:.0f} s" if final else left
        line = f"{self.title}: {self.done}/{self.total} {self.unit}, {self._rate(now_s)}, {tail}"
        line += f", {self._note}" if self._note else ""
        if self._log is not None:
            print(line, file=self._log, flush=True)
        if self._rich is None:
            print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(
    title: str, total: int, unit: str, *, log: IO[str] | None = None, terminal_lock: Path | None = None
) -> Iterator[Bar]:
    """A `Bar` for a block of work.

    Several jobs may run at the same time: the holder of `terminal_lock` draws the live bar, the others print plain lines.
    """
    with contextlib.ExitStack() as stack:
        rich_bar = None
        if sys.stderr.isatty() and _hold(terminal_lock, stack):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            rich_bar = stack.enter_context(
                Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TextColumn("{task.completed}/{task.total} " + unit),
                    TextColumn("{task.fields[rate]}"),
                    TimeRemainingColumn(),
                    TextColumn("{task.fields[note]}"),
                    console=Console(stderr=True),
                    refresh_per_second=4,
                )
            )
            rich_bar.add_task(title, total=total, rate="", note="")
        bar = Bar(title, total, unit, log, rich_bar)
        yield bar
        bar.finish()


def _hold(lock: Path | None, stack: contextlib.ExitStack) -> bool:
    if lock is None:
        return True
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context(lock.open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
