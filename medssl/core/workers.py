"""Processes that work on pieces side by side, and outlast neither their work nor their parent."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from medssl.core.errors import MedsslError, OutOfMemoryError, PreemptedError
from medssl.core.process import stop_with_parent
from medssl.core.signals import STOP, unwound

END_S = 5.0
"""How long a process may take to end when asked."""


Report = Callable[[Any], None]
"""Reports a piece's progress to the process that waits for it."""


@dataclass(frozen=True)
class _Progress:
    """A progress report of a worker on an unfinished piece."""

    what: Any


class Workers:
    """Processes that each call `begin(*given)` once, then its result `make(piece, report)` for each piece. Use as a context.

    method: how they start: `fork`, with what this process holds, or `forkserver`, to which `begin` and `given` are pickled.
    """

    def __init__(self, method: str, begin: Callable[..., Callable[[Any, Report], Any]], *given: Any) -> None:
        self._context: Any = multiprocessing.get_context(method)
        self._begin, self._given = begin, given
        self._processes: dict[Connection, Any] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes.values():
            process.terminate()
        for connection, process in self._processes.items():
            process.join(END_S)
            if process.is_alive():
                process.kill()
                process.join()
            connection.close()
        self._processes.clear()

    def each(
        self,
        pieces: Sequence[Any],
        most: Callable[[], int],
        heard: Callable[[Any, Any], None] = lambda piece, what: None,
        kin: Callable[[Any], Any] = lambda piece: None,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (piece, result) as they finish; pieces start in their order, apart from `kin`.

        most: how many processes there may be, asked whenever another could start.
        heard: called with a piece and its worker's progress report.
        kin: pieces for which it is equal share what their process computed before. A process takes those of its last piece first,
            then those of no other process, then any.

        Raises:
            MedsslError: a piece raised it, or a process died; finished pieces stay finished.
            RuntimeError: a piece raised another error, which is in it as text.
        """
        waiting, busy = list(pieces), dict[Connection, Any]()
        last: dict[Connection, list[Any]] = {}
        while waiting or busy:
            while waiting and len(busy) < max(1, most()):
                connection = next((c for c in self._processes if c not in busy), None) or self._start()
                others = [one for other in busy for one in last[other]]
                busy[connection] = waiting.pop(_chosen([kin(piece) for piece in waiting], last.get(connection, []), others))
                last[connection] = [kin(busy[connection])]
                connection.send(busy[connection])
            for ready in wait(list(busy)):
                answer = self._answer(ready)  # type: ignore[arg-type]
                if isinstance(answer, _Progress):
                    heard(busy[ready], answer.what)  # type: ignore[index]
                else:
                    yield busy.pop(ready), answer  # type: ignore[call-overload]

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        # not a daemon: daemons cannot have child processes, such as prefetching workers; it still ends with its parent
        process = self._context.Process(target=_serve, args=(theirs, self._begin, self._given))
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours

    def _answer(self, connection: Connection) -> Any:
        try:
            answer = connection.recv()
        except (EOFError, ConnectionResetError):
            process = self._processes[connection]
            process.join()
            raise _death(process.exitcode) from None
        if isinstance(answer, _Progress):
            return answer
        error, result = answer
        if error is not None:
            raise error
        return result


def _chosen(kins: Sequence[Any], own: Sequence[Any], others: Sequence[Any]) -> int:
    """The number of the next piece for a process: kin of its own last one, else of no other process, else the first."""
    mine = (number for number, one in enumerate(kins) if one in own)
    free = (number for number, one in enumerate(kins) if one not in others)
    return next(itertools.chain(mine, free, [0]))


def _death(exit_code: int) -> MedsslError:
    """Why a process that gave no answer died."""
    if exit_code == -signal.SIGKILL:
        return OutOfMemoryError(
            "a process that worked beside others was killed, as when memory is short. Let fewer work side by side (`parallel`). "
            "What was finished is saved."
        )
    if exit_code - 128 in STOP:  # see `signals.unwound`
        return PreemptedError(f"stopped by {signal.Signals(exit_code - 128).name}. What was finished is saved.")
    return MedsslError(f"a process that worked beside others ended with code {exit_code}. What was finished is saved.")


def _serve(connection: Connection, begin: Callable[..., Callable[[Any, Report], Any]], given: tuple[Any, ...]) -> None:
    """Run in a worker: receive pieces and send results until the other side is gone."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)  # Ctrl-C comes through the parent
    stop_with_parent(signal.SIGKILL)
    make = None
    with unwound(), contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            piece = connection.recv()
            error: Exception | None = None
            result = None
            try:
                make = make or begin(*given)
                result = make(piece, lambda what: connection.send(_Progress(what)))
            except MedsslError as raised:
                error = raised
            except Exception as raised:
                error = RuntimeError(f"{raised!r}, in a process that worked beside others:\n{traceback.format_exc()}")
            connection.send((error, result))
