"""What the reducers that rank or count share: they decide without comparing pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod

from medssl.reduce.slices import Decision, Slices


class Ranks(ABC):
    """Decides by a count, or by its own options if there is none."""

    needs: tuple[str, ...] = ()

    def __init__(self, slices: Slices) -> None:
        self.slices = slices

    @abstractmethod
    def decide(self, count: int | None, threshold: float | None) -> Decision:
        """Keep `count` slices; if `count` is None, as `threshold` or the options say."""
