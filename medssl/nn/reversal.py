"""Gradient reversal: a head learns what the network before it unlearns.

Source: Ganin and Lempitsky, arXiv 1409.7495.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def reversed_gradient(x: Float[Tensor, "*shape"], strength: float) -> Float[Tensor, "*shape"]:
    """The same values; the gradient that comes back is multiplied by `-strength`."""
    reversed_: Tensor = _Reversed.apply(x, strength)
    return reversed_


def strength_at(progress: float) -> float:
    """The share of its strength at a progress from 0 to 1: 0 at first, near 1 from a third on (their §3)."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None
