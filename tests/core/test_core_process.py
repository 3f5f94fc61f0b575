"""Work dealt to processes gives what one process gives, and a lost process is an error, not a gap."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import numpy as np
import pytest

from medssl.core.errors import MedsslError
from medssl.core.process import dealt
from medssl.reduce.firewall import similar_slices
from medssl.reduce.leakage import SIMILAR, fingerprint, matches


def test_parts_come_back_in_order() -> None:
    assert dealt(lambda part, report: [part, part**2], 5) == [[0, 0], [1, 1], [2, 4], [3, 9], [4, 16]]


def test_a_killed_part_is_an_error() -> None:
    def work(part: int, report: Callable[[int], None]) -> int:
        if part == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return part

    with pytest.raises(MedsslError, match="part 2 of 3"):
        dealt(work, 3)


def test_the_firewall_finds_the_same_with_any_number_of_processes() -> None:
    random = np.random.default_rng(0)
    images = [np.kron(random.random((6, 6)), np.ones((8, 8))).astype(np.float32) for _ in range(72)]
    queries, pool = [fingerprint(i) for i in images], [fingerprint(i) for i in images[::9]]
    serial = matches(queries, pool, same=SIMILAR)
    assert len(serial) >= len(pool)
    told: list[int] = []
    assert [(m.query, m.pool) for m in similar_slices(queries, pool, 3, told.append)] == [(m.query, m.pool) for m in serial]
    assert sum(told) == len(queries)
