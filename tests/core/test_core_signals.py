"""A signal to stop is noted, raised, passed on or held back inside a block, and the handlers of before come back."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from medssl.core import signals
from medssl.core.errors import PreemptedError

every_signal = pytest.mark.parametrize("number", signals.STOP)


@every_signal
def test_a_signal_is_noted_and_nothing_is_interrupted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with signals.noted() as asked_to_stop:
        assert not asked_to_stop()
        signal.raise_signal(number)
        assert asked_to_stop()
    assert signal.getsignal(number) is before


class Signalled:
    """An object whose destructor meets a signal: what is raised there goes nowhere."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("block", "expected"), [(lambda: signals.raised("All is saved."), PreemptedError), (signals.unwound, SystemExit)]
)
def test_a_signal_that_meets_a_destructor_still_ends_the_block(block: Any, expected: type[BaseException]) -> None:
    before, past = sys.unraisablehook, []
    with pytest.raises(expected), block():
        met = Signalled()
        del met
        past.append("the destructor")
        threading.Event().wait(10)
        past.append("the block")
    assert past == ["the destructor"] and sys.unraisablehook is before


def test_a_second_ctrl_c_interrupts_at_once_and_other_signals_may_come_twice() -> None:
    with pytest.raises(KeyboardInterrupt), signals.noted() as asked_to_stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert asked_to_stop()
        signal.raise_signal(signal.SIGINT)


@every_signal
def test_a_signal_raises_what_asks_for_another_try(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with (
        pytest.raises(PreemptedError, match=rf"^stopped by {number.name}\. It is saved\.$"),
        signals.raised("It is saved."),
    ):
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("number", "arrives"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGUSR1, signal.SIGUSR1), (signal.SIGINT, signal.SIGTERM)],
)
def test_a_signal_is_passed_on_to_the_processes_of_the_job(number: signal.Signals, arrives: signal.Signals) -> None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    with signals.passed_on():
        signal.raise_signal(number)
        child.join(30)
    assert child.exitcode == -arrives


def test_processes_that_are_started_inside_never_get_a_signal() -> None:
    with signals.held_back():
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    for number in signals.STOP:
        os.kill(child.pid, number)
    child.communicate(b"")
    assert child.returncode == 0
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(signals.STOP)


def test_a_signal_that_is_held_back_comes_when_the_block_ends() -> None:
    with signals.noted() as asked_to_stop:
        with signals.held_back():
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            assert not asked_to_stop()
        assert asked_to_stop()


@pytest.mark.parametrize("block", [signals.noted, signals.passed_on, lambda: signals.raised("Nothing is.")])
def test_outside_the_main_thread_handlers_stay_as_they_are(block: Any) -> None:
    before, inside = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with block():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
