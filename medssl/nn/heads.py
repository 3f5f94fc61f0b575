"""Projectors and predictors: the small networks between backbone and loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def perceptron(widths: Sequence[int], *, norm: bool = True, last_norm: bool = False) -> nn.Sequential:
    """Linear layers of the given widths with batch norm and ReLU between them; the last is linear, or normalised without offset.

    Source of the last: the released code of SimCLR (Chen et al., arXiv 2002.05709).
    """
    layers: list[nn.Module] = []
    for number, (width_in, width_out) in enumerate(pairwise(widths)):
        last = number == len(widths) - 2
        normed = last_norm if last else norm
        layers.append(nn.Linear(width_in, width_out, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm1d(width_out))
            layers[-1].bias.requires_grad_(not last)
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
