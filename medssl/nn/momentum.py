"""Momentum networks: copies that follow slowly and take no gradient."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def momentum_copy(module: Module) -> Module:
    """A copy of a module without gradients."""
    copied = copy.deepcopy(module)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied


@torch.no_grad()
def follow_weights(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Parameters of `slow` become momentum × slow + (1 − momentum) × fast; its statistics stay those of its own batches."""
    for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
        old.lerp_(new, 1 - momentum)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Parameters and running statistics of `slow` become momentum × slow + (1 − momentum) × fast; counters are copied."""
    follow_weights(slow, fast, momentum)
    for kept, read in zip(slow.buffers(), fast.buffers(), strict=True):
        kept.lerp_(read, 1 - momentum) if kept.is_floating_point() else kept.copy_(read)


@torch.no_grad()
def average(mean: nn.Module, network: nn.Module, decay: float) -> None:
    """Update the running mean of a network's parameters, decay × mean + (1 − decay) × network; buffers are copied."""
    follow_weights(mean, network, decay)
    for kept, read in zip(mean.buffers(), network.buffers(), strict=True):
        kept.copy_(read)


def cosine_momentum(start: float, progress: float) -> float:
    """From `start` at progress 0 to 1 at progress 1.

    Source: Grill et al., arXiv 2006.07733, §3.2.
    """
    return 1 - (1 - start) * (math.cos(math.pi * min(1.0, progress)) + 1) / 2
