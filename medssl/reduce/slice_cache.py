"""Values of slices, cached up to a memory limit and recomputed beyond it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class SliceCache(Generic[Value]):
    """A cache of `make(index)`; when it is full and another volume begins, it is cleared.

    A greedy pass reads the slices of a volume repeatedly in the same order, and least-recently-used would evict each just before
    its use. So values stay until none of them was requested while the cache could have been filled again.
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
