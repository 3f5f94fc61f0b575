"""Progress is absolute: a resumed job says how far it is of all its work, and its rate is of this run alone."""

from __future__ import annotations

import io
import re

import pytest

from medssl.core import progress as module
from medssl.core.progress import progress


class Clock:
    """A clock that moves only on request."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def lines(log: io.StringIO) -> list[tuple[int, int, float]]:
    """(done, total, units a second) of each line."""
    found = re.findall(r"(\d+)/(\d+) fits, ([\d.]+) fits/s", log.getvalue())
    return [(int(done), int(total), float(rate)) for done, total, rate in found]


def test_a_resumed_job_counts_what_was_done_before_and_not_as_speed(clock: Clock) -> None:
    log = io.StringIO()
    with progress("task", 100, "fits", log=log) as bar:
        clock.now_s += 50  # finding out what is done already
        bar.resume(60)
        clock.now_s += 20
        bar.advance(10)
        clock.now_s += 20
        bar.advance(30)
    assert lines(log) == [(70, 100, 0.5), (100, 100, 1.0), (100, 100, 1.0)]
    assert "60 s left" in log.getvalue()


def test_nothing_done_yet_has_no_time_left(clock: Clock) -> None:
    log = io.StringIO()
    with progress("task", 10, "fits", log=log) as bar:
        bar.resume(4)
        clock.now_s += 11
        bar.advance(0)
    assert "4/10" in log.getvalue() and "time left unknown" in log.getvalue()
