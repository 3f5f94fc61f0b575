"""The slices a reducer sees, in order within their volumes, and what it decides about each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

KEPT, DUPLICATE, RANK, BUDGET, LEAK = "kept", "duplicate", "rank", "budget", "leak"
NOBODY = -1


@dataclass(frozen=True)
class Slices:
    """`n` slices sorted by (volume id, index along the volume), which is anatomical order.

    `volume` (n,) numbers the volumes; `neighbours` (n,) is False for images of a set, each of which is a volume of its own.
    `columns` holds descriptors by name, (n,) each. `plane(i)` is slice i as float32 [row, col] in 0..1 (first window),
    `vectors` (n, d) are embeddings. `seed` is the study's.
    """

    ids: np.ndarray
    volume: np.ndarray
    neighbours: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    plane: Callable[[int], np.ndarray] | None = None
    vectors: np.ndarray | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def runs(self) -> list[np.ndarray]:
        """Indices of the slices of each volume, in anatomical order; an image of a set is in no run."""
        members = np.flatnonzero(self.neighbours)
        if not len(members):
            return []
        return np.split(members, np.flatnonzero(np.diff(self.volume[members])) + 1)


@dataclass(frozen=True)
class Decision:
    """What becomes of `n` slices: `keep` (n,) bool, `twin` (n,) index or -1, `distance` (n,) float32, `reason` (n,) text."""

    keep: np.ndarray
    twin: np.ndarray
    distance: np.ndarray
    reason: np.ndarray

    @classmethod
    def of(cls, keep: np.ndarray, reason: str, twin: np.ndarray | None = None, distance: np.ndarray | None = None) -> Decision:
        """A decision in which every dropped slice has the same reason."""
        keep = np.asarray(keep, bool)
        twin = np.full(len(keep), NOBODY) if twin is None else twin
        distance = np.full(len(keep), np.nan, np.float32) if distance is None else distance
        return cls(keep, twin, distance.astype(np.float32), np.where(keep, KEPT, reason).astype(object))

    @property
    def num_kept(self) -> int:
        """How many are kept."""
        return int(self.keep.sum())
