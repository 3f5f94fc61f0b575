"""The parent's side of `reading_process.py`: a few such processes with limits, restarted when a file kills one."""

from __future__ import annotations

import json
import os
import queue
import selectors
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from medssl.ingest.refusal import Answer, Refusal, Request

PACKAGE_ROOT = Path(__file__).resolve().parent.parent.parent
HEADER_MEMORY_MB = 150.0
HEADER_TIMEOUT_S = 20.0
BATCH = 64


class ReadingPool:
    """`count` reading processes, started at once. Use as a context; the processes end with it."""

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
        """(number of the request, answer), as they come."""
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
    """One reading process and what it has not yet answered."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""

    def ask(self, task: str, requests: list[Request], memory_mb: float, timeout_s: float) -> list[Answer]:
        """Answers in order. A request that kills the process or takes too long is refused, and the rest asked again."""
        answers: list[Answer] = []
        while len(answers) < len(requests):
            try:
                process = self.start()
                line = json.dumps({"task": task, "memory_mb": memory_mb, "batch": requests[len(answers) :]}) + "\n"
                process.stdin.write(line.encode())  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
                while len(answers) < len(requests):
                    answer = json.loads(self._line(process, timeout_s))
                    if "errno" in answer:
                        # the disk's fault, not the file's: nobody is refused for it
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
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        pass

    def start(self) -> subprocess.Popen[bytes]:
        """The process; a new one where it has ended."""
        if self._process is None or self._process.poll() is not None:
            self.stop()
            quiet = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
            environment = {**os.environ, **quiet, "MALLOC_ARENA_MAX": "2", "PYTHONPATH": str(PACKAGE_ROOT)}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "medssl.ingest.reading_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            self._process.stdin.write((json.dumps({"key": self._key.hex()}) + "\n").encode())  # type: ignore[union-attr]
        return self._process

    def _line(self, process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
        """The next line of the process's answers."""
        while b"\n" not in self._pending:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
                if not selector.select(timeout_s):
                    raise TimeoutError
            chunk = os.read(process.stdout.fileno(), 1 << 20)  # type: ignore[union-attr]
            if not chunk:
                raise EOFError
            self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        return line
