"""Live progress of one piece of work: for the study's screen, for the job's log, and on a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from medssl.core.shown import HowFar, clock, on_one_screen

PLAIN_EVERY_S = 10.0
SHOWN_EVERY_S = 1.0
MEASURABLE_S = 0.1
"""Over a shorter time a rate would be noise, such as 47,000,000 slices/s."""


class Bar:
    """Progress of one job. `advance` is cheap; what it shows is renewed about once a second."""

    def __init__(
        self, title: str, total: int, unit: str, log: IO[str] | None, rich_bar: object | None, shown: Path | None = None
    ) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._before = 0
        self._log, self._rich, self._shown = log, rich_bar, shown
        self._start_s = self._last_s = self._shown_s = time.monotonic()
        self._note = ""
        self._draw(self._start_s, at_once=True)

    def resume(self, done: int) -> None:
        """Count `done` units of an earlier run towards the job's progress, but not its rate."""
        self.done = self._before = done
        self._start_s = time.monotonic()
        self._draw(self._start_s, at_once=True)

    def found(self, count: int, note: str = "") -> None:
        """Count `count` more units of an earlier run towards the progress, but not the rate."""
        self._before += count
        self.advance(count, note)

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
        self._write(time.monotonic(), final=True)

    def how_far(self, now_s: float) -> HowFar:
        """The progress now."""
        return HowFar(self.title, self.done, self.total, self.unit, self._before, round(now_s - self._start_s, 3), self._note)

    def _draw(self, now_s: float, *, at_once: bool = False) -> None:
        if self._rich is not None:
            rate = self.how_far(now_s).rate
            self._rich.update(0, completed=self.done, total=self.total, note=self._note, rate=rate)  # type: ignore[attr-defined]
        if self._shown is not None and (at_once or now_s - self._shown_s >= SHOWN_EVERY_S):
            self._shown_s = now_s
            self.how_far(now_s).write(self._shown)

    def _write(self, now_s: float, *, final: bool = False) -> None:
        now = self.how_far(now_s)
        left = "time left unknown" if now.left_s is None else f"{clock(now.left_s)} left"
        rate = now.rate if now.spent_s >= MEASURABLE_S else ""
        parts = [f"{self.done}/{self.total} {self.unit}", rate, clock(now.spent_s) if final else left, self._note]
        line = f"{self.title}: {', '.join(filter(None, parts))}"
        if self._log is not None:
            print(line, file=self._log, flush=True)
        if self._rich is None and not on_one_screen():
            print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(
    title: str,
    total: int,
    unit: str,
    *,
    log: IO[str] | None = None,
    terminal_lock: Path | None = None,
    shown: Path | None = None,
) -> Iterator[Bar]:
    """A `Bar` for a block of work.

    The screen of the study reads the file `shown`. Without a screen several jobs may share a terminal: the holder of
    `terminal_lock` draws the live bar, the others print plain lines.
    """
    with contextlib.ExitStack() as stack:
        rich_bar = None
        if not on_one_screen() and sys.stderr.isatty() and _hold(terminal_lock, stack):
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
        if shown is not None:
            stack.callback(shown.unlink, missing_ok=True)
        bar = Bar(title, total, unit, log, rich_bar, shown)
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
