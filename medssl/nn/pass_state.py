"""What a pass through a network depends on besides its inputs, such as its visible patches.

It holds while the pass runs; code that repeats part of the pass later (activation checkpointing) must set it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Generic, TypeVar

from torch import nn

Value = TypeVar("Value")


class PassState(Generic[Value]):
    """A value that the layers of one network read, None outside a pass that sets it."""

    value: Value | None = None

    def __init__(self, network: nn.Module) -> None:
        pass_states(network).append(self)

    @contextlib.contextmanager
    def of(self, value: Value | None) -> Iterator[None]:
        """Inside, layers read `value`."""
        before, self.value = self.value, value
        try:
            yield
        finally:
            self.value = before


def pass_states(network: nn.Module) -> list[PassState]:
    """Everything that passes of a network depend on besides inputs; a plain attribute, so that a deep copy has its own."""
    found: list[PassState] = network.__dict__.setdefault("pass_states", [])
    return found
