"""What the pair reducers share: they differ only in their distance between two slices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Int64, Num

from medssl.reduce.slices import NO_TWIN, Neighbours, Slices


class Pairs(ABC):
    """Distances between slices; 0 for equal slices, symmetric.

    `default_threshold`: two slices within this distance are near-duplicates. `max_threshold`: no distance is larger.
    `whole_steps`: distances are whole numbers. `costly`: worth caching.
    """

    default_threshold: float
    max_threshold: float
    whole_steps = False
    costly = False
    needs: tuple[str, ...] = ()

    def __init__(self, slices: Slices) -> None:
        self.slices = slices

    @abstractmethod
    def distances(self, anchor: int, others: Int64[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
        """Distances (n,) float32 of slice `anchor` to slices `others` (n,)."""

    def vectors(self) -> Float32[np.ndarray, "n d"] | None:
        """Points (n, d) float32 whose Euclidean distance orders pairs the same way, for clustering; None if there are none."""
        return None

    def leaders(
        self, members: Int64[np.ndarray, "n"], threshold: float
    ) -> tuple[Int64[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
        """The paper's greedy pass over slices `members` (n,) in order: twin (n,) index or -1 (kept), and distance (n,).

        Keep the first remaining slice, drop every remaining slice within the threshold of it, repeat. Only these pairs are
        computed.

        Source: Wolf et al. 2024, doi 10.1016/j.compbiomed.2024.109242, released code Hash_LIDC_Volume.py.
        """
        twin = np.full(len(members), NO_TWIN)
        distance = np.full(len(members), np.nan, np.float32)
        left = np.arange(len(members))
        while len(left) > 1:
            anchor, rest = left[0], left[1:]
            distances = self.distances(members[anchor], members[rest])
            within = distances <= threshold
            twin[rest[within]] = members[anchor]
            distance[rest[within]] = distances[within]
            left = rest[~within]
        return twin, distance

    def neighbours(self, members: Int64[np.ndarray, "n"], threshold: float) -> Neighbours:
        """All pairs a < b of positions in `members` within the threshold, as blocks (a, b, distance)."""
        for a in range(len(members) - 1):
            distances = self.distances(members[a], members[a + 1 :])
            within = np.flatnonzero(distances <= threshold)
            yield np.full(len(within), a), within + a + 1, distances[within]


class Remembered(Pairs):
    """Caches the distances of another pair reducer, however many thresholds are tried."""

    def __init__(self, pairs: Pairs) -> None:
        super().__init__(pairs.slices)
        self._pairs = pairs
        self._rows: dict[int, dict[int, float]] = {}
        self.default_threshold, self.max_threshold = pairs.default_threshold, pairs.max_threshold
        self.whole_steps = pairs.whole_steps

    def distances(self, anchor: int, others: Int64[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
        """Distances (n,) of slice `anchor` to slices `others` (n,), computed or cached."""
        anchor = int(anchor)
        row = self._rows.setdefault(anchor, {})
        known = [row.get(int(o), self._rows.get(int(o), {}).get(anchor)) for o in others]
        missing = [k for k, value in enumerate(known) if value is None]
        if missing:
            fresh = self._pairs.distances(anchor, others[missing])
            for k, value in zip(missing, fresh, strict=True):
                row[int(others[k])] = known[k] = float(value)
        return np.array(known, np.float32)

    def vectors(self) -> Float32[np.ndarray, "n d"] | None:
        """The vectors of the wrapped reducer."""
        return self._pairs.vectors()


def leaders_in_blocks(
    num: int,
    block: int,
    first_keeper: Callable[[Int64[np.ndarray, "n"], Int64[np.ndarray, "m"]], tuple[Int64[np.ndarray, "n"], Num[np.ndarray, "n"]]],
    within: Callable[[Int64[np.ndarray, "n"]], Neighbours],
) -> tuple[Int64[np.ndarray, "{num}"], Float32[np.ndarray, "{num}"]]:
    """The same greedy pass over items 0 … num−1, a block at a time: twin (num,) item or -1, distance (num,).

    `first_keeper(items, keepers)` → for each item the position of the first keeper within the threshold (−1: none), distance.
    `within(items)` → blocks (a, b, distance) of positions a < b in `items` within the threshold.
    """
    twin = np.full(num, NO_TWIN)
    distance = np.full(num, np.nan, np.float32)
    keepers = np.empty(0, np.int64)
    for start in range(0, num, block):
        items = np.arange(start, min(start + block, num))
        position, distances = first_keeper(items, keepers)
        hit = position >= 0
        twin[items[hit]], distance[items[hit]] = keepers[position[hit]], distances[hit]
        items = items[~hit]
        found = list(within(items))
        if found:
            a, b, distances = (np.concatenate(part) for part in zip(*found, strict=True))
            order = np.lexsort((b, a))
            a, b, distances = a[order], b[order], distances[order]
            starts = np.searchsorted(a, np.arange(len(items) + 1))
            for anchor in np.flatnonzero(np.diff(starts)):
                if twin[items[anchor]] == NO_TWIN:
                    own = slice(starts[anchor], starts[anchor + 1])
                    free = twin[items[b[own]]] == NO_TWIN
                    dropped = items[b[own][free]]
                    twin[dropped], distance[dropped] = items[anchor], distances[own][free]
        keepers = np.concatenate([keepers, items[twin[items] == NO_TWIN]])
    return twin, distance
