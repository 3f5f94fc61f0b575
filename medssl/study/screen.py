"""The screen of a study on a terminal: stages, time left, and a line with a bar for each running job."""

from __future__ import annotations

import contextlib
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.live import Live
from rich.text import Text

from medssl.core.shown import HowFar, clock
from medssl.study.followed import Followed, Jobs
from medssl.study.time_left import TimeLeft

PER_S = 2
"""Redraws per second."""
NARROWEST_BAR, WIDEST_BAR = 6, 40
NARROWEST_NAME, WIDEST_NAME = 20, 40
WORTH_SAYING_S = 60.0
"""A shorter time is not shown while the time of other jobs is unknown: `more than 2 s left` helps no user."""
KEPT_LINES = 200
"""Lines above the screen that are printed again after a narrower terminal had to be cleared."""


@dataclass(frozen=True)
class Seen:
    """The state to draw at one moment."""

    study: str
    jobs: Jobs
    bars: dict[int, HowFar]
    left: TimeLeft
    spent_s: float
    now_s: float
    log: str
    stopping: bool = False


@dataclass
class Screen:
    """Draws the state that `look` returns until it is closed; lines from `say` stay above it.

    A terminal that becomes narrower wraps the lines drawn before, and their new number is unknown. The window is then cleared,
    and the latest lines are printed again.
    """

    look: Callable[[], Seen]
    console: Console
    said: list[Text] = field(default_factory=list)
    _live: Live | None = None
    _width: int = 0

    def open(self) -> None:
        """Start drawing."""
        self._width = self.console.width
        self._live = Live(
            get_renderable=self._drawn, console=self.console, refresh_per_second=PER_S, transient=True, vertical_overflow="crop"
        )
        self._live.start()

    def say(self, text: str, style: str = "") -> None:
        """Print a line that stays."""
        line = Text(text, style=style)
        self.said = [*self.said[1 - KEPT_LINES :], line]
        self.console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Remove the screen; lines from `say` stay."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _drawn(self) -> Picture:
        width = self.console.width
        if width < self._width:
            self.console.control(Control.home(), Control.clear())
            for line in self.said[-max(1, self.console.height // 2) :]:
                self.console.print(line, soft_wrap=True)
        self._width = width
        return Picture(self.look(), self.console.height)


@dataclass(frozen=True)
class Picture:
    """The lines of one moment, for any width."""

    seen: Seen
    height: int = 24

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines for the width that Rich asks for."""
        width = max(20, options.max_width - 1)  # a full last column makes some terminals begin a new line
        signs = ("━", "─") if console.encoding.startswith("utf") else ("#", "-")
        yield from self.lines(width, signs)

    def lines(self, width: int, signs: tuple[str, str] = ("━", "─")) -> list[Text]:
        """The lines, none wider than `width`."""
        seen = self.seen
        total, done = len(seen.jobs.by_number), len(seen.jobs.doing("done"))
        head = [f"study {seen.study}", f"{done} of {total} jobs done", f"{clock(seen.spent_s)} so far", left_in_words(seen.left)]
        if seen.stopping:
            head = [f"study {seen.study}", "stopping: jobs save what they have"]
        stages = [f"{name} {done}/{total}" for name, (done, total) in seen.jobs.stages().items()]
        found = [Text(""), *(Text(line, style="bold") for line in packed(head, width))]
        found += [Text(f"  {line}") for line in packed(stages, width - 2)]
        running = seen.jobs.doing("running")
        hint = "Ctrl-C again stops at once, without saving" if seen.stopping else "Ctrl-C saves and stops"
        foot = [Text(line, style="dim") for line in (f"  Snakemake log: {seen.log}", f"  {hint}")]
        room = max(1, self.height - len(found) - len(foot) - 2)
        shown = running if len(running) <= room else running[: room - 1]
        found += job_lines([(job, seen.bars.get(job.number)) for job in shown], seen.now_s, width, signs)
        if len(shown) < len(running):
            found.append(Text(f"  and {len(running) - len(shown)} more running jobs"))
        found += foot
        for line in found:
            line.truncate(width, overflow="ellipsis")
        return found


def left_in_words(left: TimeLeft) -> str:
    """`about 14 min left`; `more than …`, or nothing yet, if the time of some jobs is unknown."""
    if left.unknown:
        return f"more than {clock(_round(left.seconds))} left" if left.seconds >= WORTH_SAYING_S else "time left not known yet"
    return f"about {clock(_round(left.seconds))} left"


def _round(seconds: float) -> float:
    """An estimated time without false precision."""
    step = 1 if seconds < 60 else 10 if seconds < 600 else 60
    return round(seconds / step) * step


def packed(items: list[str], width: int) -> list[str]:
    """Items in lines of at most this width, three spaces apart; only an item that is too wide itself is broken."""
    hard = [item.replace(" ", "\u00a0") for item in items]
    lines = textwrap.wrap("   ".join(hard), width, break_on_hyphens=False) or [""]
    return [line.replace("\u00a0", " ") for line in lines]


def job_lines(rows: list[tuple[Followed, HowFar | None]], now_s: float, width: int, signs: tuple[str, str]) -> list[Text]:
    """A line per job in common columns: name, bar, count, rate, time left, note. A narrow terminal drops notes, rates
    and units; then it shortens names, and drops the time left last."""
    if not rows:
        return []
    names = [job.title for job, _ in rows]
    far = [f"{bar.done:,}/{bar.total:,} {bar.unit}" if bar else f"since {clock(now_s - job.began_s)}" for job, bar in rows]
    left = [f"{clock(bar.left_s)} left" if bar and bar.left_s is not None else "" for _, bar in rows]
    rates = [bar.rate if bar and bar.done > bar.before else "" for _, bar in rows]
    notes = [bar.note if bar else "" for _, bar in rows]
    short = [text.rpartition(" ")[0] if bar else text for text, (_, bar) in zip(far, rows, strict=True)]
    whole = min(max(map(len, names)), WIDEST_NAME)
    choices = [[far, rates, left, notes], [far, rates, left], [far, left], [short, left], [short], []]
    for columns in choices:
        widths = [max(map(len, column)) for column in columns]
        room = width - 4 - sum(2 + size for size in widths if size)
        shortest = whole if columns[-1:] != [left] or far in columns else min(whole, NARROWEST_NAME)
        if room >= shortest + NARROWEST_BAR:
            break
    name = max(8, min(whole, room - NARROWEST_BAR))
    bar_width = min(max(NARROWEST_BAR, room - name), WIDEST_BAR)
    found = []
    for index, (_, bar) in enumerate(rows):
        line = Text("  ")
        line.append(_cut(names[index], name).ljust(name))
        line.append("  ")
        full = 0 if bar is None or bar.total <= 0 else min(bar_width, bar_width * bar.done // bar.total)
        line.append(signs[0] * full, style="green")
        line.append(signs[1] * (bar_width - full), style="dim")
        for column, size in zip(columns, widths, strict=True):
            if size:
                line.append("  " + column[index].rjust(size) if column is not notes else "  " + column[index])
        found.append(line)
    return found


def _cut(text: str, width: int) -> str:
    """A text that is too wide, with its middle left out: names differ at their ends."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return text[: width - 1 - end] + "…" + text[len(text) - end :]


def on_a_terminal() -> Console | None:
    """The terminal on standard error, if a screen can be drawn on it."""
    console = Console(stderr=True, highlight=False)
    return console if console.is_terminal and not console.is_dumb_terminal else None


@contextlib.contextmanager
def reported_jobs() -> Iterator[Callable[[str], None]]:
    """Inside, the returned function shows the job of a trial run: on one line of a terminal, else on a line per job."""
    console = on_a_terminal()
    if console is None:
        yield lambda job: print(f"trial run of {job}", file=sys.stderr, flush=True)
        return
    with console.status("trial run") as status:
        yield lambda job: status.update(f"trial run of {job}")


def now_s() -> float:
    """The clock of the screen, in seconds."""
    return time.monotonic()
