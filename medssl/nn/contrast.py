"""InfoNCE over the batch of all ranks, by log-sum-exp in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from medssl.nn.gather import gather, rank


def nt_xent(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], *, temperature: float, volume: Int64[Tensor, "n"] | None = None
) -> Float[Tensor, ""]:
    """Mean loss of the local anchors: each view's partner against all other views of all ranks.

    `a`, `b`: unit rows `(n, d)` of two views. With `volume` `(n,)`, samples of one volume are not each other's negatives.

    Source: Chen et al., arXiv 2002.05709, eq. 1 (NT-Xent).
    """
    n = len(a)
    everyone = torch.cat([gather(a), gather(b)])
    total = len(everyone) // 2
    own = torch.arange(n, device=a.device) + rank() * n
    logits = torch.cat([a, b]) @ everyone.T / temperature
    target = torch.cat([own + total, own])
    blocked = torch.zeros_like(logits, dtype=torch.bool)
    if volume is not None:
        volumes = gather(volume)
        same = volume[:, None] == volumes[None, :]
        blocked = same.repeat(2, 2).scatter(1, target[:, None], False)
    blocked = blocked.scatter(1, torch.cat([own, own + total])[:, None], True)
    return F.cross_entropy(logits.masked_fill(blocked, float("-inf")), target)
