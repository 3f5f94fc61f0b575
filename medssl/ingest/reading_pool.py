"""The parent's side of `reading_process.py`: a few such processes with limits, restarted when a file kills one."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import threading
from collections.abc import Iterator
from types import TracebackType

from medssl.ingest.check import found_checks
from medssl.ingest.reading_process import serve
from medssl.ingest.refusal import Answer, Refusal, Request

HEADER_MEMORY_MB = 150.0
HEADER_TIMEOUT_S = 20.0
BATCH = 32
"""Headers that are requested together."""


class ReadingPool:
    """`count` reading processes, started together. Use as a context; the processes end with it."""

    def __init__(self, key: bytes, count: int = 1) -> None:
        self._key = key
        self._processes = [_ReadingProcess(key) for _ in range(max(count, 1))]
        for process in self._processes:
            process.start()

    def __enter__(self) -> ReadingPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            process.stop()

    def ask(self, task: str, request: Request, *, memory_mb: float, timeout_s: float) -> Answer:
        """The answer to one request."""
        return self._processes[0].ask(task, [request], memory_mb, timeout_s)[0]

    def each(
        self,
        task: str,
        requests: list[Request],
        *,
        memory_mb: list[float] | float,
        timeout_s: list[float] | float,
        batch: int = 1,
    ) -> Iterator[tuple[int, Answer]]:
        """(number of the request, answer), in order of arrival."""
        waiting: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        for start in range(0, len(requests), batch):
            waiting.put(list(range(start, min(start + batch, len(requests)))))
        done: queue.SimpleQueue[tuple[int, Answer] | BaseException | None] = queue.SimpleQueue()

        def work(process: _ReadingProcess) -> None:
            try:
                while True:
                    numbers = waiting.get_nowait()
                    memory = memory_mb if isinstance(memory_mb, (int, float)) else max(memory_mb[n] for n in numbers)
                    patience = timeout_s if isinstance(timeout_s, (int, float)) else max(timeout_s[n] for n in numbers)
                    for number, answer in zip(
                        numbers, process.ask(task, [requests[n] for n in numbers], memory, patience), strict=True
                    ):
                        done.put((number, answer))
            except queue.Empty:
                done.put(None)
            except BaseException as error:
                done.put(error)

        threads = [threading.Thread(target=work, args=(process,), daemon=True) for process in self._processes]
        for thread in threads:
            thread.start()
        running = len(threads)
        try:
            while running:
                item = done.get()
                if item is None:
                    running -= 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield item
        finally:
            while not waiting.empty():
                waiting.get()


class _ReadingProcess:
    """One reading process and its pending requests."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._process: _Child | None = None
        self._pending = b""

    def ask(self, task: str, requests: list[Request], memory_mb: float, timeout_s: float) -> list[Answer]:
        """Answers in order. A request that kills the process or takes too long is refused, and the rest is requested again."""
        answers: list[Answer] = []
        while len(answers) < len(requests):
            try:
                process = self.start()
                line = json.dumps({"task": task, "memory_mb": memory_mb, "batch": requests[len(answers) :]}) + "\n"
                process.write(line)
                while len(answers) < len(requests):
                    answer = json.loads(self._line(process, timeout_s))
                    if "errno" in answer:
                        # an error of the disk, not of the file: no file is refused for it
                        raise OSError(answer["errno"], os.strerror(answer["errno"]))
                    answers.append(answer)
            except TimeoutError:
                self.stop()
                answers.append(Refusal("timeout", f"more than {timeout_s:.0f} s").answer())
            except (EOFError, BrokenPipeError, ConnectionResetError, json.JSONDecodeError):
                self.stop()
                answers.append(Refusal("crashed").answer())
        return answers

    def stop(self) -> None:
        """End the process, whatever it does."""
        process, self._process, self._pending = self._process, None, b""
        if process is not None:
            process.kill()
            process.close()

    def start(self) -> _Child:
        """The process; a new one if it has ended."""
        if self._process is None or self._process.has_ended():
            self.stop()
            self._process = _Child(self._key)
        return self._process

    def _line(self, process: _Child, timeout_s: float) -> bytes:
        """The next line of the process's answers."""
        while b"\n" not in self._pending:
            waiting = select.poll()
            waiting.register(process.answers, select.POLLIN)
            if not waiting.poll(1000 * timeout_s):
                raise TimeoutError
            chunk = os.read(process.answers, 1 << 20)
            if not chunk:
                raise EOFError
            self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        return line


class _Child:
    """A forked process that answers requests, and the ends of its two pipes.

    A fork rather than a new interpreter, which would import numpy again and take longer than hundreds of slices.
    """

    def __init__(self, key: bytes) -> None:
        found_checks()  # imported now, once, so that it does not count against a file's memory
        read_requests, write_requests = os.pipe()
        self.answers, write_answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            serve(key, read_requests, write_answers)
        os.close(read_requests)
        os.close(write_answers)
        self._requests = os.fdopen(write_requests, "wb")
        self._ended = False

    def write(self, line: str) -> None:
        """Send a request."""
        self._requests.write(line.encode())
        self._requests.flush()

    def has_ended(self) -> bool:
        """Whether the process has ended."""
        self._ended = self._ended or os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return self._ended

    def kill(self) -> None:
        """Kill it and wait until it has ended."""
        if not self.has_ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._ended = True

    def close(self) -> None:
        """Close this side of the pipes."""
        os.close(self.answers)
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
