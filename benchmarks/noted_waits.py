"""How long a run waits for its batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from medssl.nn.loading import Batch
from medssl.pretrain import loop


@contextmanager
def waiting(came: Callable[[int], None] = lambda count: None) -> Iterator[tuple[list[float], list[float]]]:
    """Inside, the loop's loading notes for each batch the seconds it was waited for, and when it came.

    came: called with the number of batches so far, before the last of them is used.
    """
    waits: list[float] = []
    at: list[float] = []
    load = loop.load

    def noted(*arguments: Any, **options: Any) -> Iterator[Batch]:
        waits.clear()  # a pass that fills a memory loads too; the loop itself comes last
        at.clear()
        batches = load(*arguments, **options)
        while True:
            start_s = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            at.append(time.perf_counter())
            waits.append(at[-1] - start_s)
            came(len(at))
            yield batch

    loop.load = noted
    try:
        yield waits, at
    finally:
        loop.load = load
