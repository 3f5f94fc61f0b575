"""Shuffled group whitening: channels are permuted and split into groups, and each group is decorrelated over the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.core.rng import rng
from medssl.nn.backbone import wide
from medssl.nn.gather import summed, world_size


def shuffled_group_whitening(
    z: Float[Tensor, "n d"], groups: int, *, step: int, view: int = 0, eps: float = 1e-5
) -> Float[Tensor, "n d"]:
    """ZCA of each of `groups` random groups of channels of `z` `(n, d)`, statistics over the batch of all ranks.

    The permutation is a function of the step and of the view. `eps`, relative to the mean variance of a group, keeps flat
    directions finite.

    Raises:
        StudyError: `d` is not a multiple of `groups`, or the batch is too small to estimate a group's covariance.

    Source: Zhuo et al., "WhitenedCSE", ACL 2023, §3.2 (W = U Λ^(-1/2) Uᵀ).
    """
    n, d = z.shape
    total = n * world_size()
    size = d // max(groups, 1)
    if groups < 1 or d % groups or total <= size:
        raise StudyError(
            f"whitening_groups {groups} does not fit {d} dimensions and a batch of {total}: the groups must divide the "
            "dimensions, and a group must have fewer channels than the batch has samples."
        )
    order = torch.from_numpy(rng(0, "whitening", step, view).permutation(d)).to(z.device)
    with torch.autocast(z.device.type, enabled=False):  # a covariance matrix in half precision has no root
        shuffled = wide(z)[:, order]
        centred = shuffled - summed(shuffled.sum(0)) / total
        grouped = centred.view(n, groups, size)
        covariance = summed(torch.einsum("ngi,ngj->gij", grouped, grouped)) / total
        ridge = eps * covariance.diagonal(dim1=1, dim2=2).mean(1)
        covariance = covariance + ridge[:, None, None] * torch.eye(size, device=z.device, dtype=covariance.dtype)
        white = torch.einsum("ngi,gij->ngj", grouped, _InverseSquareRoot.apply(covariance)).reshape(n, d)
        return white[:, torch.argsort(order)]


class _InverseSquareRoot(torch.autograd.Function):
    """A^(-1/2) of symmetric matrices, with a gradient that stays finite if eigenvalues coincide (eigh's own does not)."""

    @staticmethod
    def forward(context: Any, matrices: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrices)
        roots = values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
        context.save_for_backward(roots, vectors)
        return (vectors / roots[..., None, :]) @ vectors.mT

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        roots, vectors = context.saved_tensors
        a, b = roots[..., :, None], roots[..., None, :]
        inner = vectors.mT @ gradient @ vectors
        return vectors @ (-inner / (a * b * (a + b))) @ vectors.mT
