"""A slice with a mutated header makes its series right or refused: a small count of `benchmarks/header_fuzz.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import header_fuzz

FOUND = (307, 347, 432, 517, 657, 685, 803, 1174, 2993, 3259, 3693, 4379)
"""Mutations that once left a volume an end slice short: they reach into the series identifier, the last into more."""


def test_a_mutated_header_changes_no_volume_and_loses_no_file(request: pytest.FixtureRequest, readers) -> None:
    count = 5000 if request.config.getoption("--full") else 140
    verdicts = [(number, verdict) for number, _, verdict, _ in header_fuzz.run(range(count), readers)]
    assert [(number, verdict) for number, verdict in verdicts if verdict not in ("right", "refused")] == []
    assert sum(verdict == "right" for _, verdict in verdicts) >= count / 10


def test_mutations_that_were_once_wrong(readers) -> None:
    for number in FOUND:
        assert [verdict for _, _, verdict, _ in header_fuzz.run(range(number, number + 1), readers)] in (["right"], ["refused"])
