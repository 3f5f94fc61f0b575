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


def guided_nt_xent(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    kin: Float[Tensor, "n all"],
    *,
    temperature: float,
    kin_weight: float,
    class_share: float,
    hardness: float,
    volume: Int64[Tensor, "n"] | None = None,
) -> Float[Tensor, ""]:
    """Mean loss of the local anchors with negatives debiased and weighted by hardness, and positives shared with kin.

    An anchor's target is its partner. The share `kin_weight` of it goes to the views of other samples, in proportion to `kin`
    `(n, all)`, the likeness 0…1 of the local samples and those of all ranks. A sample without kin keeps the whole target.
    Gradient flows through the weights of the negatives, as in the authors' code. With `volume`, samples of one volume are left
    out. With `kin_weight`, `class_share` and `hardness` 0 it is `nt_xent`.

    Source: Chuang et al., arXiv 2007.00224, eq. 8 (debiased by `class_share`, the probability that a negative is a positive);
    Robinson et al., arXiv 2010.04592, eq. 4 (`hardness`); Dufumier et al., arXiv 2106.08808, eq. 3 (soft targets, whose rows sum
    to 1 here).
    """
    n = len(a)
    everyone = torch.cat([gather(a), gather(b)])
    total = len(everyone) // 2
    own = torch.arange(n, device=a.device) + rank() * n
    itself, partner = torch.cat([own, own + total])[:, None], torch.cat([own + total, own])[:, None]
    logits = torch.cat([a, b]) @ everyone.T / temperature
    others = torch.ones_like(logits, dtype=torch.bool)
    if volume is not None:
        others = (volume[:, None] != gather(volume)[None, :]).repeat(2, 2)
    others = others.scatter(1, itself, False).scatter(1, partner, False)
    count = others.sum(1).to(logits)
    nothing = torch.full_like(logits, -torch.inf)
    positive, hidden = logits.gather(1, partner)[:, 0], torch.where(others, logits, nothing)
    weight = torch.where(others, hardness * logits, nothing).log_softmax(1)  # mean 1 over the others once log count is added
    mass = (hidden + torch.where(others, weight, torch.zeros_like(weight))).logsumexp(1) + count.log()
    # on values below the largest one, so that nothing overflows
    top = torch.maximum(positive, hidden.amax(1)).detach()
    negatives = ((mass - top).exp() - class_share * count * (positive - top).exp()) / (1 - class_share)
    negatives = torch.maximum(negatives, count * (-1 / temperature - top).exp())
    normaliser = ((positive - top).exp() + negatives).log() + top
    shared = torch.where(others, kin.to(logits.dtype).repeat(2, 2), torch.zeros_like(logits))
    known = shared.sum(1)
    shared = shared / known.clamp_min(torch.finfo(known.dtype).tiny)[:, None]
    given = kin_weight * (known > 0).to(logits)
    wanted = (1 - given) * positive + given * (shared * torch.where(others, logits, torch.zeros_like(logits))).sum(1)
    return (normaliser - wanted).mean()
