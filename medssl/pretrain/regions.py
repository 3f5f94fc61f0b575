"""The regions of a map whose embeddings are contrasted, and the neighbours that are the negatives of each.

Source: Chaitanya et al., arXiv 2006.10511, §3.2; places and neighbours in 2-D are the table of the authors' code.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Int64
from torch import Tensor

from medssl.core.errors import StudyError

STEPS = 4
"""The lattice has nodes at 0, ¼, ½, ¾ and 1 of each side."""
NUM_NEGATIVES = 5
NEIGHBOURS_2D: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {
    (0, 0): ((0, 2), (1, 1), (1, 2), (2, 0), (2, 1)),
    (0, 2): ((0, 0), (0, 4), (1, 1), (1, 3), (2, 2)),
    (0, 4): ((0, 2), (1, 2), (1, 3), (2, 3), (2, 4)),
    (2, 0): ((0, 0), (1, 1), (2, 2), (4, 0), (3, 1)),
    (2, 2): ((1, 1), (1, 3), (3, 1), (3, 3), (2, 0)),
    (2, 4): ((0, 4), (2, 2), (4, 4), (1, 3), (3, 3)),
    (4, 0): ((2, 0), (2, 1), (4, 2), (3, 1), (3, 2)),
    (4, 2): ((2, 2), (4, 0), (4, 4), (3, 1), (3, 3)),
    (4, 4): ((2, 3), (2, 4), (4, 2), (3, 3), (3, 2)),
    (1, 1): ((0, 0), (0, 2), (2, 0), (2, 2), (1, 3)),
    (1, 3): ((0, 2), (0, 4), (1, 1), (2, 2), (2, 4)),
    (3, 1): ((2, 0), (2, 2), (4, 0), (4, 2), (3, 3)),
    (3, 3): ((2, 2), (2, 4), (4, 2), (4, 4), (3, 1)),
}


@dataclass(frozen=True)
class Regions:
    """Nodes of the lattice, the nodes that are anchors, and the negatives of each anchor."""

    nodes: tuple[tuple[int, ...], ...]
    places: Int64[Tensor, "places"]
    """Node numbers."""
    negatives: Int64[Tensor, "places negatives"]
    """Node numbers, at most 5 per place."""

    @classmethod
    def of(cls, dims: int) -> Regions:
        """The lattice in 2-D (theirs) or 3-D."""
        return _lattice(dims)

    def with_negatives(self, count: int) -> Regions:
        """The first `count` negatives of each place."""
        return Regions(self.nodes, self.places, self.negatives[:, :count])


@lru_cache
def _lattice(dims: int) -> Regions:
    neighbours = NEIGHBOURS_2D if dims == 2 else _nearest(dims)
    nodes = sorted({*neighbours, *itertools.chain.from_iterable(neighbours.values())})
    number = {node: at for at, node in enumerate(nodes)}
    return Regions(
        tuple(nodes),
        torch.tensor([number[place] for place in neighbours]),
        torch.tensor([[number[node] for node in others] for others in neighbours.values()]),
    )


def _nearest(dims: int) -> dict[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The same pattern in other dimensions, for which the paper has no table: the negatives are the nearest others."""
    places = [*itertools.product((0, 2, 4), repeat=dims), *itertools.product((1, 3), repeat=dims)]

    def others(place: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        by_distance = sorted(places, key=lambda other: (_squared_distance(other, place), other))
        return tuple(by_distance[1 : 1 + NUM_NEGATIVES])

    return {place: others(place) for place in places}


def corners_of(size: tuple[int, ...], region: int) -> list[tuple[int, ...]]:
    """The first voxel of each node's region in a map of `size`, such that no region leaves the map and none overlap.

    Raises:
        StudyError: the map is too small for regions of that side.
    """
    steps = [(side - region) // STEPS for side in size]
    if min(steps) < region:
        raise StudyError(
            f"a map of {' × '.join(map(str, size))} has no room for {STEPS + 1} regions of {region} along each side: it needs "
            f"{(STEPS + 1) * region}. Raise pretrain.size or the option blocks, or lower the option region."
        )
    nodes = Regions.of(len(size)).nodes
    return [tuple(node * step for node, step in zip(corner, steps, strict=True)) for corner in nodes]


def _squared_distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
