"""How a job reports to the screen of its study: its progress and its remarks, in small files below `state/progress`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

SCREEN = "MEDSSL_SCREEN"
"""Environment variable: `drawn` if a program shows the progress of all jobs, `quiet` if the user wants none."""
REMARKS = "MEDSSL_REMARKS"
"""Environment variable of a job: the file for its remarks, if a program shows them."""


@dataclass(frozen=True)
class HowFar:
    """Progress of a piece of work; an earlier try did `before` of the `done` units, so they do not count for the rate."""

    title: str
    done: int
    total: int
    unit: str
    before: int = 0
    spent_s: float = 0.0
    note: str = ""

    @property
    def per_s(self) -> float:
        """Units per second in this try."""
        return max(0, self.done - self.before) / max(self.spent_s, 1e-6)

    @property
    def rate(self) -> str:
        """`45.1 images/s`."""
        return f"{self.per_s:.1f} {self.unit}/s" if self.per_s < 100 else f"{self.per_s:.0f} {self.unit}/s"

    @property
    def left_s(self) -> float | None:
        """Seconds left; None until this try has done something."""
        return max(0, self.total - self.done) / self.per_s if self.done > self.before else None

    def write(self, file: Path) -> None:
        """Write it for the screen, all or nothing. A full disk must not stop a job here."""
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".tmp-{os.getpid()}-{file.name}")
            temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
            temporary.replace(file)

    @classmethod
    def read(cls, file: Path) -> HowFar | None:
        """The progress that a job wrote; None if there is no readable file."""
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def on_one_screen() -> bool:
    """Whether this job must leave its progress to a screen."""
    return SCREEN in os.environ


def leave_the_terminal(output: Path, *, remarks: Path) -> None:
    """If a screen is drawn, write remarks of this process to the file `remarks`, and all other output to `output`."""
    if os.environ.get(SCREEN) != "drawn":
        return
    os.environ[REMARKS] = str(remarks)
    if sys.stderr.isatty():
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, "a", encoding="utf-8") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)


def say(text: str) -> None:
    """Report a line to the user: on the screen of the study if there is one, else on standard error."""
    place = os.environ.get(REMARKS)
    if place:
        with contextlib.suppress(OSError):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            with open(place, "a", encoding="utf-8") as file:
                print(text, file=file)
        return
    print(text, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """A duration in two units: `48 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for size, unit, part, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    raise AssertionError
