"""The signals that ask a process to stop, and what they do inside a block: noted, raised, passed on, held back, unwound."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker

from medssl.core.errors import PreemptedError

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, a cluster that ends a job, and a cluster that announces its end."""
AT_ONCE = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT)
"""What ends a process without its `finally` blocks where nobody handles it (Ctrl-C goes through them as it is)."""
AGAIN_S = 0.05
"""How long after an exception was lost it is raised again."""


@contextlib.contextmanager
def noted() -> Iterator[Callable[[], bool]]:
    """Inside, a signal to stop only sets a flag, which the returned function reads; a second Ctrl-C interrupts at once."""
    caught: list[int] = []

    def note(number: int) -> None:
        if number == signal.SIGINT and number in caught:
            raise KeyboardInterrupt
        caught.append(number)

    with _handled(note):
        yield lambda: bool(caught)


@contextlib.contextmanager
def raised(what_is_saved: str) -> Iterator[None]:
    """Inside, a signal to stop ends the job with the exit code that asks for another try.

    Raises:
        PreemptedError: `stopped by SIGTERM.` and the sentence `what_is_saved`.
    """

    def stop(number: int) -> None:
        raise PreemptedError(f"stopped by {signal.Signals(number).name}. {what_is_saved}")

    with _handled(stop), _again_where_lost(PreemptedError, signal.SIGTERM):
        yield


@contextlib.contextmanager
def passed_on() -> Iterator[None]:
    """Inside, a signal to stop goes on to the processes that this one has started, which save and end.

    Ctrl-C reaches them from the terminal as well, and only once may it come as such: they get SIGTERM in its place.
    """

    def pass_on(number: int) -> None:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGTERM if number == signal.SIGINT else number)

    with _handled(pass_on):
        yield


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Processes that are started inside never get a signal to stop; those to this thread come when the block ends.

    Every process of a job is signalled by srun, scancel and Ctrl-C; this one finishes its step, and needs what its workers still
    read. They inherit the mask, as does the server that starts them beside a GPU, whose end would be theirs.
    """
    resource_tracker.ensure_running()  # its start would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def unwound() -> Iterator[None]:
    """Inside, a signal that would end the process at once ends it through its `finally` blocks, with a shell's code for it.

    What is ignored stays so: after `nohup` a terminal that closes ends nothing.
    """

    def end(number: int) -> None:
        raise SystemExit(128 + number)

    numbers = [number for number in AT_ONCE if signal.getsignal(number) is not signal.SIG_IGN]
    with _handled(end, numbers), _again_where_lost(SystemExit, signal.SIGTERM):
        yield


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Inside, no signal to stop does anything: for the short work that must not be left half done."""
    with _handled(lambda _: None, {*STOP, *AT_ONCE}):
        yield


@contextlib.contextmanager
def _again_where_lost(kind: type[BaseException], number: signal.Signals) -> Iterator[None]:
    """Inside, an exception of a handler that Python drops is raised again soon: a destructor, for one, can raise nothing."""
    before = sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, kind):
            threading.Timer(AGAIN_S, os.kill, (os.getpid(), number)).start()
        else:
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def _handled(by: Callable[[int], None], numbers: Iterable[signal.Signals] = STOP) -> Iterator[None]:
    """Inside, `by` gets each signal of `numbers`; outside the main thread, whoever started the thread handles them."""
    try:
        before = {number: signal.signal(number, lambda caught, _: by(caught)) for number in numbers}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
