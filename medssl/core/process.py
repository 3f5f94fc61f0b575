"""Processes that end with their parent, and work divided among several without a pickle."""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import signal
from collections.abc import Callable
from typing import Any

from medssl.core.errors import MedsslError


def stop_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux for a signal when the parent dies, so that a killed program leaves no process behind; elsewhere does nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, by)


POLL_S = 0.5


def dealt(
    function: Callable[[int, Callable[[int], None]], Any], parts: int, advance: Callable[[int], None] = lambda count: None
) -> list[Any]:
    """`[function(0, report), …, function(parts - 1, report)]`, each in its own forked process; it must return JSON.

    Counts of finished things that the parts pass to `report` reach `advance` as one sum.

    Raises:
        MedsslError: a process ended without a result (for example, out of memory).
    """
    context = multiprocessing.get_context("fork")
    done = context.Value("q", 0)
    passed = 0

    def report(count: int) -> None:
        with done.get_lock():
            done.value += count

    def work(part: int, pipe: Any) -> None:
        stop_with_parent(signal.SIGKILL)
        pipe.send_bytes(json.dumps(function(part, report)).encode())

    running = []
    for part in range(parts):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(part, sender), daemon=True)
        process.start()
        sender.close()
        running.append((process, receiver))
    results = []
    for part, (process, receiver) in enumerate(running):
        while not receiver.poll(POLL_S):
            passed = _passed_on(done, passed, advance)
        try:
            results.append(json.loads(receiver.recv_bytes()))
        except EOFError:
            process.join()
            raise MedsslError(
                f"part {part + 1} of {parts} ended without a result (exit code {process.exitcode}); out of memory is the usual "
                "cause. Run again with fewer threads."
            ) from None
        process.join()
    _passed_on(done, passed, advance)
    return results


def _passed_on(done: Any, passed: int, advance: Callable[[int], None]) -> int:
    """Report to `advance` what is new in the sum of the parts; the sum."""
    now = int(done.value)
    if now > passed:
        advance(now - passed)
    return now
