"""Training on mixtures of two cases and of their labels."""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.core.rng import rng


def mixup(images: Tensor, targets: Tensor, alpha: float, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Each image and its targets mixed with a random partner's, share λ ~ Beta(α, α) for each image; α = 0 turns mixing off.

    `images` `(n, c, *size)`; `targets` `(n, classes)` or one-hot masks `(n, classes, *size)`.

    Source: Zhang et al., arXiv 1710.09412, §2; of masks: Chaitanya et al., arXiv 2006.10511, §4 (α = 0.1).
    """
    if alpha == 0:
        return images, targets
    generator = rng(seed, "mixup", step)
    share = torch.from_numpy(generator.beta(alpha, alpha, len(images))).to(images.device, images.dtype)
    partner = torch.from_numpy(generator.permutation(len(images))).to(images.device)
    return tuple(_mixed(values, values[partner], share) for values in (images, targets))  # type: ignore[return-value]


def _mixed(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    share = share.view(-1, *(1,) * (one.ndim - 1))
    return share * one + (1 - share) * other
