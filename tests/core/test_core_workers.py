"""Pieces made side by side: each once, with what it raises, and no process left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from medssl.core.errors import CorruptArtefactError, MedsslError, OutOfMemoryError, PreemptedError
from medssl.core.workers import Workers


def squares(offset: int) -> Callable[..., tuple[int, int]]:
    return lambda piece, report: (offset + piece**2, os.getpid())


def does(what: str) -> Callable[..., Any]:
    def make(piece: int, report: Any) -> Any:
        if piece == 2 and what == "raises":
            raise CorruptArtefactError("a sentence")
        if piece == 2 and what == "breaks":
            raise ZeroDivisionError("of a bug")
        if piece == 2 and what == "exits":
            os._exit(9)
        if piece == 2 and what != "sleeps":
            os.kill(os.getpid(), getattr(signal, what))
        time.sleep(60 if what == "sleeps" else 0)
        return piece

    return make


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_every_piece_is_made_once_by_as_many_as_are_asked_for(method: str) -> None:
    with Workers(method, squares, 5) as workers:
        found = list(workers.each(range(9), lambda: 3))
    assert sorted((piece, result[0]) for piece, result in found) == [(n, 5 + n**2) for n in range(9)]
    assert 1 <= len({result[1] for _, result in found}) <= 3 and os.getpid() not in {result[1] for _, result in found}
    assert not multiprocessing.active_children()


def slowly() -> Callable[..., int]:
    def make(piece: tuple[str, int], report: Any) -> int:
        time.sleep(0.05)
        return os.getpid()

    return make


def test_pieces_that_share_their_beginning_go_to_one_process_until_the_rest_is_of_others() -> None:
    pieces = [(letter, number) for letter in "abc" for number in range(6)]
    with Workers("fork", slowly) as workers:
        found = dict(workers.each(pieces, lambda: 2, kin=lambda piece: piece[0]))
    of = {letter: [found[letter, number] for number in range(6)] for letter in "abc"}
    assert sorted(found) == pieces and of["a"][0] != of["b"][0]
    assert len(set(of["a"])) == len(set(of["b"])) == 1, "each is of one process, while the other has its own"
    assert len(set(of["c"])) == 2, "no process waits for the last ones"


def counts() -> Callable[..., int]:
    def make(piece: int, report: Any) -> int:
        for number in range(piece):
            report(number)
        return piece

    return make


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_reports_of_a_piece_come_in_order_and_before_its_result(method: str) -> None:
    reports: dict[int, list[int]] = {}
    with Workers(method, counts) as workers:
        for piece, result in workers.each(range(5), lambda: 2, lambda piece, what: reports.setdefault(piece, []).append(what)):
            assert reports.get(piece, []) == list(range(result))
    assert sorted(reports) == [1, 2, 3, 4]


def test_how_many_work_may_change_on_the_way() -> None:
    most = 1
    with Workers("fork", squares, 0) as workers:
        by = []
        for _, (_, process) in workers.each(range(8), lambda: most):
            by.append(process)
            most = 2
    assert len(by) == 8 and len(set(by)) == 2


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        ("raises", CorruptArtefactError, "^a sentence$"),
        ("breaks", RuntimeError, "of a bug.*Traceback"),
        ("SIGKILL", OutOfMemoryError, "parallel"),
        ("SIGTERM", PreemptedError, "stopped by SIGTERM"),
        ("exits", MedsslError, "code 9"),
    ],
)
def test_the_cause_of_a_killed_piece_is_reported(what: str, kind: type[Exception], words: str) -> None:
    made = []
    with pytest.raises(kind, match=f"(?s){words}"), Workers("fork", does, what) as workers:
        for piece, _ in workers.each([0, 1, 2, 3], lambda: 1):
            made.append(piece)
    assert made == [0, 1]
    assert not multiprocessing.active_children()


def test_who_stops_waiting_leaves_no_process_at_work() -> None:
    start_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Workers("fork", does, "sleeps") as workers:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3, 5)  # again, as a first one may fall into a hook of fork, which drops it
        list(workers.each([0, 1], lambda: 2))
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert not multiprocessing.active_children() and time.monotonic() - start_s < 30
