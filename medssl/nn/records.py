"""What is known of samples besides their pixels: a column of records as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int

from medssl.core.record_table import Kind


@dataclass(frozen=True)
class Record:
    """A column of records.

    Args:
        kind: `number` or `category`.
        values: the number of each sample, or the number of its level; NaN where nothing is known.
        levels: of a category, in alphabetical order.
    """

    kind: Kind
    values: Float64[np.ndarray, "n"]
    levels: tuple[str, ...] = ()

    @classmethod
    def of(cls, kind: Kind, texts: Sequence[str | None]) -> Record:
        """The column from the text of each sample; None where nothing is known.

        The levels of a category are those of these samples alone.
        """
        if kind == "number":
            return cls(kind, np.array([np.nan if text is None else float(text) for text in texts], dtype=np.float64))
        levels = sorted({text for text in texts if text is not None})
        code = {level: float(number) for number, level in enumerate(levels)}
        return cls(kind, np.array([np.nan if text is None else code[text] for text in texts], dtype=np.float64), tuple(levels))

    @property
    def num_missing(self) -> int:
        """Samples of which nothing is known."""
        return int(np.isnan(self.values).sum())

    def rows(self, chosen: Int[np.ndarray, "m"]) -> Record:
        """The column of some samples; the levels stay."""
        return replace(self, values=self.values[chosen])
