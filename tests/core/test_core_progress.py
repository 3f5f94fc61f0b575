"""Progress is absolute: a resumed job says how far it is of all its work, and its rate is of this run alone."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from medssl.core import progress as module
from medssl.core.progress import progress
from medssl.core.shown import REMARKS, SCREEN, HowFar, say


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
    assert "1 min left" in log.getvalue()


def test_work_that_takes_no_time_has_no_rate(clock: Clock) -> None:
    log = io.StringIO()
    with progress("task", 47, "fits", log=log) as bar:
        bar.advance(47)
    assert log.getvalue() == "task: 47/47 fits, 0 s\n"


def test_nothing_done_yet_has_no_time_left(clock: Clock) -> None:
    log = io.StringIO()
    with progress("task", 10, "fits", log=log) as bar:
        bar.resume(4)
        clock.now_s += 11
        bar.advance(0)
    assert "4/10" in log.getvalue() and "time left unknown" in log.getvalue()


def test_work_that_was_done_already_does_not_count_for_the_speed(clock: Clock) -> None:
    log = io.StringIO()
    with progress("task", 100, "fits", log=log) as bar:
        bar.found(40)
        clock.now_s += 10
        bar.advance(10)
        bar.found(20)
        clock.now_s += 10
        bar.advance(10)
    assert lines(log) == [(50, 100, 1.0), (80, 100, 1.0), (80, 100, 1.0)]


def test_a_screen_finds_how_far_a_job_is_at_most_once_a_second_and_nothing_after_it(clock: Clock, tmp_path: Path) -> None:
    shown = tmp_path / "progress" / "a.json"
    with progress("task", 100, "fits", shown=shown) as bar:
        bar.resume(60)
        clock.now_s += 2
        bar.advance(10, "loss 3")
        clock.now_s += 0.5
        bar.advance(10)
        assert HowFar.read(shown) == HowFar("task", 70, 100, "fits", 60, 2.0, "loss 3")
        clock.now_s += 0.5
        bar.advance(10)
        found = HowFar.read(shown)
        assert found is not None and (found.done, found.per_s, found.left_s) == (90, 10.0, 1.0)
    assert not shown.exists() and list(shown.parent.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"done": 1}'])
def test_half_a_file_of_a_job_is_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert HowFar.read(tmp_path / "a.json") is None


def test_under_a_screen_a_job_writes_to_its_log_and_not_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(SCREEN, "drawn")
    monkeypatch.setenv(REMARKS, str(tmp_path / "progress" / "a.txt"))
    log = io.StringIO()
    with progress("task", 2, "fits", log=log) as bar:
        bar.advance(2)
    say("a remark")
    assert "2/2 fits" in log.getvalue() and capsys.readouterr().err == ""
    assert (tmp_path / "progress" / "a.txt").read_text() == "a remark\n"
