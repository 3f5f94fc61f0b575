"""A signal to stop reaches the jobs, and the program ends with the exit code that asks for another try."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medssl.core.layout import Layout
from medssl.study.workflow import stop_on_signals, stop_with_code


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What Snakemake's own handlers hear."""
    found: list[int] = []
    before = {number: signal.signal(number, lambda got, _: found.append(got)) for number in (signal.SIGTERM, signal.SIGINT)}
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_goes_on_to_jobs_that_nobody_else_tells(
    tmp_path: Path, heard: list[int], number: signal.Signals, ends: bool
) -> None:
    dag: Any = SimpleNamespace(layout=Layout(tmp_path))
    stop_with_code(dag)
    stop_on_signals(dag)
    job = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    signal.raise_signal(number)
    if not ends:
        job.communicate(b"")
    assert job.wait(30) == (-signal.SIGTERM if ends else 0) and heard == [number]
    with pytest.raises(SystemExit) as stopped:
        stop_with_code(dag)
    assert stopped.value.code == 75
