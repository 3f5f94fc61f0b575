"""Batches of whole volumes: bags of slices that are spread over a volume, in order; images without neighbours form bags too."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int64

from medssl.core.rng import rng
from medssl.nn.loading import Samples


class Bags:
    """Which samples are slices of volumes, and how an epoch divides them into bags of `slices` rows.

    Only those of kind `volume` with two kept slices or more count as volumes. `slices` is the requested number, or the median
    volume's number of slices if that is less (shorter volumes repeat some).
    """

    def __init__(self, samples: Samples, slices: int) -> None:
        order = np.lexsort((samples.index, samples.volume))
        numbers, starts, counts = np.unique(samples.volume[order], return_index=True, return_counts=True)
        kept = {int(v): order[s : s + c] for v, s, c in zip(numbers, starts, counts, strict=True)}
        self.volumes = {v: rows for v, rows in kept.items() if samples.volumes[v].kind == "volume" and len(rows) > 1}
        self.images = np.array(sorted(r for v, rows in kept.items() if v not in self.volumes for r in rows), dtype=np.int64)
        self.slices = min(slices, int(np.median([len(rows) for rows in self.volumes.values()]))) if self.volumes else 1
        self.in_volume = ~np.isin(np.arange(len(samples)), self.images)

    def deal(self, seed: int, epoch: int) -> Int64[np.ndarray, "bags {self.slices}"]:
        """The bags of an epoch in random order, int64 `(bags, slices)`: every slice and image about once.

        The number of a volume's bags is the closest to its number of slices, at least one. Images fill whole bags; the remainder
        comes
        in other epochs. If there are fewer images than a bag holds, each occurs several times in it.
        """
        dealt = [
            bag
            for v, rows in self.volumes.items()
            for bag in spread(rows, self.slices, max(1, math.floor(len(rows) / self.slices + 0.5)), rng(seed, "bags", epoch, v))
        ]
        if len(self.images):
            images = rng(seed, "images", epoch).permutation(self.images)
            dealt += list(np.resize(images, (max(1, len(images) // self.slices), self.slices)))
        return np.stack(dealt)[rng(seed, "order", epoch).permutation(len(dealt))]

    def one_each(self) -> Int64[np.ndarray, "volumes {self.slices}"]:
        """One bag for each volume, int64 `(volumes, slices)`."""
        return np.stack([spread(rows, self.slices, 1, rng(0, "one", v))[0] for v, rows in self.volumes.items()])


def spread(
    rows: Int64[np.ndarray, "n"], slices: int, count: int, random: np.random.Generator
) -> Int64[np.ndarray, "{count} {slices}"]:
    """`count` bags `(count, slices)` of a volume's rows: the volume is cut into `slices` strips, and each bag has one row of
    each.

    The bags divide a strip's rows as evenly as they can. With fewer rows than strips some rows occur twice in a bag.
    """
    edges = np.arange(slices + 1) * len(rows) // slices
    turn = np.stack([random.permutation(count) for _ in range(slices)], axis=1)
    within = (turn + random.random(turn.shape)) / count
    place = edges[:-1] + np.floor(within * np.diff(edges)).astype(np.int64)
    return rows[np.minimum(place, len(rows) - 1)]


def runs_of_equal(volume: Int64[np.ndarray, "n"], longest: int) -> list[Int64[np.ndarray, "_ _"]]:
    """The bags in a batch: consecutive rows of one volume, at most `longest`; grouped by length, `(bags, length)`."""
    bags: list[list[int]] = []
    for row, number in enumerate(volume):
        if bags and volume[bags[-1][0]] == number and len(bags[-1]) < longest:
            bags[-1].append(row)
        else:
            bags.append([row])
    lengths = sorted({len(bag) for bag in bags})
    return [np.array([bag for bag in bags if len(bag) == length], dtype=np.int64) for length in lengths]
