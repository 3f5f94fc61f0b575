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
"""Signals that end a process without its `finally` blocks unless they are handled (Ctrl-C runs them as it is)."""
AGAIN_S = 0.05
"""How long after an exception was lost it is raised again."""


@contextlib.contextmanager
def noted() -> Iterator[Callable[[], bool]]:
    """Inside, a signal to stop only sets a flag, which the returned function reads; a second Ctrl-C interrupts immediately."""
    caught: list[int] = []

    def note(number: int) -> None:
        if number == signal.SIGINT and number in caught:
            raise KeyboardInterrupt
        caught.append(number)

    with _handled(note):
        yield lambda: bool(caught)


@contextlib.contextmanager
def raised(what_is_saved: str | Callable[[], str]) -> Iterator[None]:
    """Inside, a signal to stop ends the job with the exit code that asks for another try.

    what_is_saved: a sentence, or a function that returns it when the signal comes.

    Raises:
        PreemptedError: `stopped by SIGTERM.` and the sentence `what_is_saved`.
    """

    def stop(number: int) -> None:
        said = what_is_saved if isinstance(what_is_saved, str) else what_is_saved()
        raise PreemptedError(f"stopped by {signal.Signals(number).name}. {said}")

    with _handled(stop), _again_where_lost(PreemptedError, signal.SIGTERM):
        yield


@contextlib.contextmanager
def passed_on() -> Iterator[None]:
    """Inside, a signal to stop is forwarded to the child processes, which save and end.

    Ctrl-C reaches them from the terminal as well, and must arrive only once: they get SIGTERM instead.
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
    """Processes that are started inside never get a signal to stop; signals to this thread arrive when the block ends.

    srun, scancel and Ctrl-C signal every process of a job. This one finishes its step and still needs its workers to read.
    They inherit the mask, as does the server that starts them beside a GPU, which must not end before them.
    """
    resource_tracker.ensure_running()  # starting it would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def unwound() -> Iterator[None]:
    """Inside, a signal that would kill the process ends it through its `finally` blocks, with a shell's exit code for it.

    Ignored signals stay ignored: after `nohup`, closing the terminal ends nothing.
    """

    def end(number: int) -> None:
        raise SystemExit(128 + number)

    numbers = [number for number in AT_ONCE if signal.getsignal(number) is not signal.SIG_IGN]
    with _handled(end, numbers), _again_where_lost(SystemExit, signal.SIGTERM):
        yield


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Inside, signals to stop are ignored: for short work that must not be left half done."""
    with _handled(lambda _: None, {*STOP, *AT_ONCE}):
        yield


@contextlib.contextmanager
def _again_where_lost(kind: type[BaseException], number: signal.Signals) -> Iterator[None]:
    """Inside, an exception of a handler that Python drops, as it does in a destructor, is raised again soon."""
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
    """Inside, `by` gets each signal of `numbers`. Outside the main thread nothing changes: the thread's starter handles them."""
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
