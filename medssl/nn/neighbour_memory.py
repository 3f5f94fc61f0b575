"""A memory of earlier embeddings in clusters, in which samples find neighbours of other volumes.

Source: Poulakakis-Daktylidis and Jamali-Rad, "BECLR", arXiv 2402.02444, §4.1 and algorithm 2 (DyCE).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from medssl.nn.clustering import mean_directions, sinkhorn, spherical_kmeans, usage
from medssl.nn.gather import from_first

UNKNOWN = -1


class NeighbourMemory(nn.Module):
    """The last rows in a ring, and the cluster of each. Until the first clustering all rows are in one cluster.

    A row holds `kinds` embeddings of one view of a sample; the first kind is compared. Samples of one group, such as the slices
    of a volume, are never neighbours.
    """

    group: Int64[Tensor, "samples"]
    rows: Int64[Tensor, "places"]
    embeddings: Float[Tensor, "places kinds d"]
    cluster: Int64[Tensor, "places"]
    prototypes: Float[Tensor, "clusters d"]

    def __init__(
        self,
        group: Int64[Tensor, "samples"],
        places: int,
        width: int,
        *,
        kinds: int,
        clusters: int,
        epsilon: float,
        iterations: int,
        momentum: float,
    ) -> None:
        super().__init__()
        self.epsilon, self.iterations, self.momentum = epsilon, iterations, momentum
        # the samples say it again after a restart
        self.register_buffer("group", group, persistent=False)
        self.register_buffer("rows", torch.full((places,), UNKNOWN))
        self.register_buffer("embeddings", torch.zeros(places, kinds, width))
        self.register_buffer("cluster", torch.zeros(places, dtype=torch.int64))
        self.register_buffer("prototypes", torch.zeros(clusters, width))

    def nearest(
        self, z: Float[Tensor, "n d"], rows: Int64[Tensor, "n"], count: int
    ) -> tuple[Int64[Tensor, "n {count}"], Float[Tensor, "n {count}"]]:
        """(places, cosines) of the nearest of other groups to unit rows `z` of these samples, in the cluster of their nearest
        prototype, or in the whole memory if there are fewer. The cosine of a missing one is −∞.
        """
        z = z.to(self.embeddings)
        others = (self.rows != UNKNOWN) & (self.group[rows][:, None] != self.group[self.rows])
        inside = others & (self.cluster == (z @ self.prototypes.T).argmax(1)[:, None])
        allowed = torch.where(inside.sum(1, keepdim=True) >= count, inside, others)
        found = (z @ self.embeddings[:, 0].T).masked_fill(~allowed, -torch.inf).topk(count)
        return found.indices, found.values

    def enter(self, new: Float[Tensor, "n kinds d"], rows: Int64[Tensor, "n"], step: int, *, clustered: bool) -> None:
        """The unit rows of a step replace the oldest; every step has as many. Once `clustered`, they get clusters in equal
        shares, and prototypes become the directions of the clusters' means; an empty cluster keeps its own.
        """
        places = (step * len(new) + torch.arange(len(new), device=new.device)) % len(self.rows)
        new = new.to(self.embeddings)
        self.embeddings[places], self.rows[places] = new, rows
        if clustered:
            scores = new[:, 0] @ self.prototypes.T
            codes = sinkhorn(scores, epsilon=self.epsilon, iterations=self.iterations)
            self.cluster[places] = from_first(codes.argmax(1))
            means = mean_directions(self.embeddings[:, 0], self.cluster, self.prototypes)
            self.prototypes.copy_(from_first(F.normalize(torch.lerp(means, self.prototypes, self.momentum), dim=1)))

    def make_clusters(self, iterations: int, seed: int, names: tuple[str | int, ...]) -> None:
        """Cluster all rows, from a start drawn from seed and names."""
        known = torch.nonzero(self.rows != UNKNOWN)[:, 0]
        found = spherical_kmeans(self.embeddings[known, 0], len(self.prototypes), iterations=iterations, seed=seed, names=names)
        self.prototypes.copy_(from_first(found[0]))
        self.cluster[known] = from_first(found[1])

    def figures(self) -> dict[str, float]:
        """Share of clusters that have members, and of places that are filled."""
        known = self.rows != UNKNOWN
        return {
            "prototype_usage": usage(self.cluster[known], len(self.prototypes)).item(),
            "memory_filled": known.float().mean().item(),
        }
