"""What a job says to the one screen of its study: how far it is, and remarks, in small files below `state/progress`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

SCREEN = "MEDSSL_SCREEN"
"""Environment variable: `drawn` where a program shows the progress of all jobs, `quiet` where nobody wants to see it."""
REMARKS = "MEDSSL_REMARKS"
"""Environment variable of a job: the file for its remarks, where a program shows them."""


@dataclass(frozen=True)
class HowFar:
    """How far a piece of work is; `before` of the `done` units were done by an earlier try and say nothing of the speed."""

    title: str
    done: int
    total: int
    unit: str
    before: int = 0
    spent_s: float = 0.0
    note: str = ""

    @property
    def per_s(self) -> float:
        """Units a second, of this try alone."""
        return max(0, self.done - self.before) / max(self.spent_s, 1e-6)

    @property
    def rate(self) -> str:
        """`45.1 images/s`."""
        return f"{self.per_s:.1f} {self.unit}/s" if self.per_s < 100 else f"{self.per_s:.0f} {self.unit}/s"

    @property
    def left_s(self) -> float | None:
        """Seconds left; None before anything was done in this try."""
        return max(0, self.total - self.done) / self.per_s if self.done > self.before else None

    def write(self, file: Path) -> None:
        """Write it for the screen, whole or not at all; a disk that is full must not stop a job here."""
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".tmp-{os.getpid()}-{file.name}")
            temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
            temporary.replace(file)

    @classmethod
    def read(cls, file: Path) -> HowFar | None:
        """What a job wrote; None where there is nothing, or nothing that can be read."""
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def on_one_screen() -> bool:
    """Whether this job is not to show its progress itself."""
    return SCREEN in os.environ


def leave_the_terminal(output: Path, *, remarks: Path) -> None:
    """Where a screen is drawn, this process writes what nobody is to miss to the file `remarks`, and the rest to `output`."""
    if os.environ.get(SCREEN) != "drawn":
        return
    os.environ[REMARKS] = str(remarks)
    if sys.stderr.isatty():
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, "a", encoding="utf-8") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)


def say(text: str) -> None:
    """A line for the person who looks on: on the study's screen where there is one, else on this job's own."""
    place = os.environ.get(REMARKS)
    if place:
        with contextlib.suppress(OSError):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            with open(place, "a", encoding="utf-8") as file:
                print(text, file=file)
        return
    print(text, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """A length of time as people say it: `48 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for size, unit, part, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    raise AssertionError
