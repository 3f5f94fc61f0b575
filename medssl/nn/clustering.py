"""Clusters for objectives: spherical k-means, and equal shares by Sinkhorn's iteration."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.rng import rng


def spherical_kmeans(
    x: Tensor, clusters: int, *, iterations: int, seed: int, names: tuple[str | int, ...]
) -> tuple[Tensor, Tensor]:
    """(centroids `(k, d)` of unit length, assignment `(n,)`) of unit rows `x` `(n, d)`; the start is drawn from seed and names.

    A cluster that loses all members keeps its centroid.

    Source: Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", Machine Learning 42, 2001.
    """
    start = rng(seed, "kmeans", *names).choice(len(x), clusters, replace=False)
    centroids = x[torch.from_numpy(start).to(x.device)]
    assignment = (x @ centroids.T).argmax(1)
    for _ in range(iterations):
        sums = torch.zeros_like(centroids).index_add_(0, assignment, x)
        filled = torch.bincount(assignment, minlength=clusters) > 0
        centroids = torch.where(filled[:, None], F.normalize(sums, dim=1), centroids)
        assignment = (x @ centroids.T).argmax(1)
    return centroids, assignment


def sinkhorn(scores: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Codes `(n, k)` of scores `(n, k)`: each row sums to 1, and all columns get about the same share.

    Source: Caron et al., arXiv 2006.09882, eq. 4 and appendix A.1; Cuturi, arXiv 1306.0895. Here in logarithms.
    """
    n, k = scores.shape
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - torch.logsumexp(log_q, 0, keepdim=True) - torch.log(torch.tensor(float(k)))
        log_q = log_q - torch.logsumexp(log_q, 1, keepdim=True) - torch.log(torch.tensor(float(n)))
    return torch.exp(log_q) * n


def usage(assignment: Tensor, clusters: int) -> Tensor:
    """Share of the clusters that have a member."""
    return (torch.bincount(assignment, minlength=clusters) > 0).float().mean()
