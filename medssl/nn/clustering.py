"""Clusters for objectives: spherical k-means over a memory, and equal shares among prototypes by Sinkhorn's iteration."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from medssl.core.rng import rng
from medssl.nn.backbone import wide
from medssl.nn.gather import from_first, gather, mean_of_chosen, rank

IGNORED = -100


class ClusterMemory(nn.Module):
    """Stores two embeddings of each item, by global number; every epoch they are clustered, and clusters are predicted.

    There are `heads` clusterings; head h uses the memory of view h mod 2. Centroids have unit length; items that are not in the
    memory have no target. `name` distinguishes the random starts of several memories. Centroids that are `trainable` are weights:
    they move with every step until those of the next epoch replace them.

    Source: Caron et al., arXiv 2006.09882, §4.1 and appendix C (DeepCluster-v2).
    """

    memory: Float[Tensor, "2 items width"]
    known: Bool[Tensor, "items"]
    assignment: Int64[Tensor, "heads items"]
    centroids: Float[Tensor, "heads clusters width"]

    def __init__(
        self,
        items: int,
        width: int,
        *,
        clusters: int,
        heads: int,
        temperature: float,
        iterations: int,
        name: str = "",
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.clusters, self.temperature, self.iterations, self.name = width, clusters, temperature, iterations, name
        self.register_buffer("memory", torch.zeros(2, items, width))
        self.register_buffer("known", torch.zeros(items, dtype=torch.bool))
        self.register_buffer("assignment", torch.full((heads, items), IGNORED))
        centroids = torch.zeros(heads, clusters, width)
        if trainable:
            self.centroids = nn.Parameter(centroids)
        else:
            self.register_buffer("centroids", centroids)

    def weights(self) -> Float[Tensor, "heads clusters width"] | None:
        """The centroids, if they are learned."""
        return self.centroids if isinstance(self.centroids, nn.Parameter) else None

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Cluster the memory."""
        known = torch.nonzero(self.known)[:, 0]
        for head in range(len(self.centroids)):
            names = (self.name, epoch, head) if self.name else (epoch, head)
            remembered = self.memory[head % 2, known]
            found = spherical_kmeans(remembered, self.clusters, iterations=self.iterations, seed=seed, names=names)
            self.centroids.data[head] = from_first(found[0])
            self.assignment[head] = IGNORED
            self.assignment[head, known] = from_first(found[1])

    def forward(self, z: Float[Tensor, "n views {self.width}"]) -> Float[Tensor, "n views _"]:
        """The input of `loss` and `remember`, from unit embeddings `(n, views, width)`: the embeddings, followed by the scores if
        centroids are learned, which a batch in parts differentiates in its parts.
        """
        return z if self.weights() is None else torch.cat([wide(z), self._scores(z).flatten(2)], 2)

    def loss(
        self, z: Float[Tensor, "n views _"], items: Int64[Tensor, "n"], chosen: Bool[Tensor, "n"] | None = None
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy over heads, views and the `chosen` `(n,)` rows of the output of `forward` for `items`."""
        made = z[..., self.width :].unflatten(2, self.centroids.shape[:2]) if self.weights() is not None else self._scores(z)
        scores = made / self.temperature
        target = self.assignment[:, items].T[:, None, :].expand(scores.shape[:3])
        each = F.cross_entropy(scores.flatten(0, 2), target.flatten(), ignore_index=IGNORED, reduction="none")
        counts = target != IGNORED
        if chosen is not None:
            counts = counts & chosen[:, None, None]
        return mean_of_chosen(each, counts.flatten())

    def remember(self, z: Float[Tensor, "n views _"], items: Int64[Tensor, "n"], chosen: Bool[Tensor, "n"] | None = None) -> None:
        """Store the `chosen` `(n,)` embeddings in their places; an item that occurs twice gets the direction of the mean."""
        everyone, items = gather(z[:, :2, : self.width]), gather(items)
        if chosen is not None:
            which = gather(chosen)
            everyone, items = everyone[which], items[which]
        unique, place = items.unique(return_inverse=True)
        sums = self.memory.new_zeros(2, len(unique), self.width)
        sums.index_add_(1, place, everyone.to(sums).transpose(0, 1))
        self.memory[:, unique] = sums if len(unique) == len(place) else F.normalize(sums, dim=2)
        self.known[unique] = True

    def figures(self) -> dict[str, float]:
        """Share of clusters that have members, mean over heads, and size of the largest as a share of the items."""
        sizes = torch.stack([torch.bincount(a[a >= 0], minlength=self.clusters) for a in self.assignment]).float()
        return {
            "prototype_usage": (sizes > 0).float().mean().item(),
            "largest_cluster": (sizes.max() / sizes.sum(1).max().clamp_min(1)).item(),
        }

    def _scores(self, z: Float[Tensor, "n views d"]) -> Float[Tensor, "n views heads clusters"]:
        return wide(torch.einsum("nvd,hkd->nvhk", z, self.centroids.to(z.dtype)))


class Prototypes(nn.Module):
    """Learned prototypes; the code of one of two views, an equal share of prototypes, is predicted from the other.

    Source: Caron et al., arXiv 2006.09882, §3.1 (SwAV), without a queue.
    """

    used: Float[Tensor, ""]

    def __init__(self, width: int, count: int, *, temperature: float, epsilon: float = 0.05, iterations: int = 3) -> None:
        super().__init__()
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.weight = nn.Parameter(F.normalize(nn.Linear(width, count, bias=False).weight.detach(), dim=1))
        self.register_buffer("used", torch.zeros(()))

    def weights(self) -> Float[Tensor, "prototypes width"]:
        """The prototypes."""
        return self.weight

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Does nothing: prototypes move with every step."""

    def forward(self, z: Float[Tensor, "n 2 d"]) -> Float[Tensor, "n 2 k"]:
        """The input of `loss`, from unit embeddings `(n, 2, width)`: scores `(n, 2, prototypes)`."""
        return wide(z @ self.weight.T)

    def loss(
        self, scores: Float[Tensor, "n 2 k"], items: Int64[Tensor, "n"], chosen: Bool[Tensor, "n"] | None = None
    ) -> Float[Tensor, ""]:
        """Mean over the `chosen` `(n,)` of the cross-entropy between each view's code and the other view's prediction."""
        n = len(scores)
        counts = torch.ones(n, dtype=torch.bool, device=scores.device) if chosen is None else chosen
        everyone, all_counts = gather(scores.detach()), gather(counts)
        code = torch.zeros_like(everyone)
        for view in range(2):
            code[all_counts, view] = sinkhorn(everyone[all_counts, view], epsilon=self.epsilon, iterations=self.iterations)
        own = code[rank() * n : (rank() + 1) * n]
        each = -(own * F.log_softmax(scores / self.temperature, 2).flip(1)).sum(2).mean(1)
        return mean_of_chosen(each, counts)

    def remember(
        self, scores: Float[Tensor, "n 2 k"], items: Int64[Tensor, "n"], chosen: Bool[Tensor, "n"] | None = None
    ) -> None:
        """Normalise the prototypes to unit length."""
        self.weight.data = F.normalize(self.weight.data, dim=1)
        nearest = gather(scores[:, 0]).argmax(1)
        self.used.copy_(usage(nearest if chosen is None else nearest[gather(chosen)], scores.shape[2]))

    def figures(self) -> dict[str, float]:
        """Share of prototypes that are nearest to one of the last batch."""
        return {"prototype_usage": self.used.item()}


def spherical_kmeans(
    x: Float[Tensor, "n d"], clusters: int, *, iterations: int, seed: int, names: tuple[str | int, ...]
) -> tuple[Float[Tensor, "{clusters} d"], Int64[Tensor, "n"]]:
    """(centroids `(k, d)` of unit length, assignment `(n,)`) of unit rows `x` `(n, d)`; the start is drawn from seed and names.

    A cluster that loses all members keeps its centroid.

    Source: Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", Machine Learning 42, 2001.
    """
    start = rng(seed, "kmeans", *names).choice(len(x), clusters, replace=False)
    centroids = x[torch.from_numpy(start).to(x.device)]
    assignment = (x @ centroids.T).argmax(1)
    for _ in range(iterations):
        centroids = mean_directions(x, assignment, centroids)
        assignment = (x @ centroids.T).argmax(1)
    return centroids, assignment


def mean_directions(
    x: Float[Tensor, "n d"], assignment: Int64[Tensor, "n"], before: Float[Tensor, "k d"]
) -> Float[Tensor, "k d"]:
    """The direction of the mean of each cluster's members among rows `x`. A cluster without any keeps the one of `before`; rows
    of 0 count for nothing.
    """
    sums = torch.zeros_like(before).index_add_(0, assignment, x)
    return torch.where(sums.any(1, keepdim=True), F.normalize(sums, dim=1), before)


def sinkhorn(scores: Float[Tensor, "n k"], *, epsilon: float, iterations: int) -> Float[Tensor, "n k"]:
    """Codes `(n, k)` of scores `(n, k)`: each row sums to 1, and all columns get about the same share.

    Source: Caron et al., arXiv 2006.09882, eq. 4 and appendix A.1; Cuturi, arXiv 1306.0895. Computed in logarithms and always in
    float64: at ε = 0.05 rounding of float32 is multiplied by 20.
    """
    n, k = scores.shape
    log_q = scores.double() / epsilon
    for _ in range(iterations):
        log_q = log_q - torch.logsumexp(log_q, 0, keepdim=True) - math.log(k)
        log_q = log_q - torch.logsumexp(log_q, 1, keepdim=True) - math.log(n)
    return (torch.exp(log_q) * n).to(wide(scores).dtype)


def usage(assignment: Int64[Tensor, "n"], clusters: int) -> Float[Tensor, ""]:
    """Share of the clusters that have a member."""
    return (torch.bincount(assignment, minlength=clusters) > 0).float().mean()
