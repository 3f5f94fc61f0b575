"""The losses that separate two spaces: alignment, uniformity and joint entropy of embeddings, by Gaussian kernels.

Source: Louiset, Duchesnay, Grigis, Gori, "Separating common from salient patterns with contrastive representation learning",
ICLR 2024, arXiv 2402.11928; alignment and uniformity: Wang and Isola, arXiv 2005.10242.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medssl.nn.gather import gather


def align(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"] | float, *, temperature: float) -> Float[Tensor, ""]:
    """Mean squared distance of rows `(n, d)` over 2τ; 0 for empty input."""
    return (a - b).square().sum(1).sum() / (2 * temperature * max(1, len(a)))


def uniformity(a: Float[Tensor, "n d"], *, temperature: float) -> Float[Tensor, ""]:
    """The log of the mean kernel over pairs of different rows of `a` `(n, d)`: low when they are far apart."""
    return torch.logsumexp(-torch.pdist(a).square() / (2 * temperature), 0) - math.log(len(a) * (len(a) - 1) / 2)


def uniformity_of_pairs(z: Float[Tensor, "n 2 d"], counted: Bool[Tensor, "n 2"], *, temperature: float) -> Float[Tensor, ""]:
    """The log of the mean of exp(cosine over τ) over unit rows of different images of all ranks, of which those `counted` enter.

    Source: the released code of Poulakakis-Daktylidis and Jamali-Rad, arXiv 2402.02444, `BECLRLoss.neg`.
    """
    everyone, enters = gather(z).flatten(0, 1), gather(counted).flatten()
    image = torch.arange(len(everyone), device=z.device) // 2
    pairs = (image[:, None] != image) & enters[:, None] & enters
    logits = (everyone @ everyone.T / temperature).masked_fill(~pairs, -torch.inf)
    return logits.flatten().logsumexp(0) - pairs.sum().to(logits).log()


def joint_entropy(c: Float[Tensor, "n d"], s: Float[Tensor, "n e"], *, temperature: float) -> Float[Tensor, ""]:
    """Minus the kernel estimate of the joint entropy of rows `c` and `s` `(n, d)` (k-JEM): low if pairs fill their space."""
    squared = _squared_distances(c) + _squared_distances(s)
    return (torch.logsumexp(-squared / (2 * temperature), 1) - math.log(len(c))).mean()


def _squared_distances(a: Tensor) -> Tensor:
    """`(n, n)`, by differences: the expanded square would lose small distances to rounding."""
    return (a[:, None] - a[None]).square().sum(2)
