"""KoLeo: features are spread by distance to their nearest neighbour, which must lie in another volume."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from medssl.nn.gather import gather, mean_of_chosen, normalised

FLOOR = 0.01
"""Distances below this one have no gradient, which grows as one over the distance."""


def koleo(features: Float[Tensor, "n d"], volume: Int64[Tensor, "n"]) -> Float[Tensor, ""]:
    """Mean of −log of the distance of each unit feature to its nearest neighbour of another volume, in the batch of all ranks.

    Neighbouring slices of one volume are nearly equal, so that they would have almost all of the gradient. A feature without
    a neighbour in another volume does not count.

    Source: Sablayrolles et al., "Spreading vectors for similarity search", arXiv 1806.03198, §3.2.
    """
    own = normalised(features)
    everyone, volumes = gather(own), gather(volume)
    other = volume[:, None] != volumes[None, :]
    with torch.no_grad():
        nearest = (own @ everyone.T).masked_fill(~other, -2.0).argmax(1)
    distance = (own - everyone[nearest]).square().sum(1).clamp_min(FLOOR**2).sqrt()
    return mean_of_chosen(-distance.log(), other.any(1))
