"""Values kept for slices up to a memory limit; beyond it they are made again when asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Held(Generic[Value]):
    """`make(index)`, remembered while there is room; a full memory starts afresh when another volume's turn comes.

    A greedy pass reads the slices of a volume over and over in the same order, for which least-recently-used would forget
    each just before its use. So what is in stays in, until nothing of it has been asked for during a whole filling.
    """

    def __init__(self, make: Callable[[int], Value], num_bytes: Callable[[Value], int], memory_mb: int) -> None:
        self._make, self._num_bytes = make, num_bytes
        self._limit = memory_mb << 20
        self._values: dict[int, Value] = {}
        self._used = 0
        self._misses = 0

    def __call__(self, index: int) -> Value:
        """The value of slice `index`."""
        if index in self._values:
            self._misses = 0
            return self._values[index]
        value = self._make(index)
        size = self._num_bytes(value)
        if self._used + size > self._limit:
            self._misses += 1
            if self._misses > len(self._values):
                self._values.clear()
                self._used = self._misses = 0
        if self._used + size <= self._limit:
            self._values[index] = value
            self._used += size
        return value
