"""The reducer's input, slices in order within their volumes, and its decision about each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int64, Num, Shaped

KEPT, DUPLICATE, RANK, BUDGET, LEAK = "kept", "duplicate", "rank", "budget", "leak"
NO_TWIN = -1

Neighbours = Iterator[tuple[Int64[np.ndarray, "pairs"], Int64[np.ndarray, "pairs"], Num[np.ndarray, "pairs"]]]
"""Pairs of positions, and their distance, in blocks."""


@dataclass(frozen=True)
class Slices:
    """`n` slices sorted by (volume id, index along the volume), which is anatomical order.

    `volume` (n,) numbers the volumes; `neighbours` (n,) is False for images of a set, each of which counts as a volume.
    `columns` holds descriptors by name, (n,) each. `plane(i)` is slice i as float32 [row, col] in 0..1 (first window),
    `vectors` (n, d) are embeddings. `seed` is the study's.
    """

    ids: Shaped[np.ndarray, "n"]
    volume: Int[np.ndarray, "n"]
    neighbours: Bool[np.ndarray, "n"]
    columns: dict[str, Num[np.ndarray, "n"]] = field(default_factory=dict)
    plane: Callable[[int], Float[np.ndarray, "row col"]] | None = None
    vectors: Float[np.ndarray, "n d"] | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def runs(self) -> list[Int64[np.ndarray, "_"]]:
        """Indices of the slices of each volume, in anatomical order; images of a set are in no run."""
        members = np.flatnonzero(self.neighbours)
        if not len(members):
            return []
        return np.split(members, np.flatnonzero(np.diff(self.volume[members])) + 1)


@dataclass(frozen=True)
class Decision:
    """The decision about `n` slices: `keep` (n,) bool, `twin` (n,) index or -1, `distance` (n,) float32, `reason` (n,) text."""

    keep: Bool[np.ndarray, "n"]
    twin: Int64[np.ndarray, "n"]
    distance: Float32[np.ndarray, "n"]
    reason: Shaped[np.ndarray, "n"]

    @classmethod
    def of(
        cls,
        keep: Bool[np.ndarray, "n"],
        reason: str,
        twin: Int64[np.ndarray, "n"] | None = None,
        distance: Num[np.ndarray, "n"] | None = None,
    ) -> Decision:
        """A decision in which every dropped slice has the same reason."""
        keep = np.asarray(keep, bool)
        twin = np.full(len(keep), NO_TWIN) if twin is None else twin
        distance = np.full(len(keep), np.nan, np.float32) if distance is None else distance
        return cls(keep, twin, distance.astype(np.float32), np.where(keep, KEPT, reason).astype(object))

    @property
    def num_kept(self) -> int:
        """How many are kept."""
        return int(self.keep.sum())
