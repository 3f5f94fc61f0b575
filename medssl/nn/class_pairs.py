"""Contrast between classes, in a subspace that a gate chooses for each pair of classes.

Source: Wu et al., "Rethinking positive pairs in contrastive learning", arXiv 2410.18200, eq. 3 to 6. Here rows are normalised
after the gate, so that a half-open gate does not lower every similarity.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

Kind = Literal["sigmoid", "stochastic", "open"]


class PairGate(nn.Module):
    """How far each channel counts when two classes are compared; equal for (a, b) and (b, a)."""

    def __init__(self, classes: int, embedding: int, channels: int, *, kind: Kind, fuse: bool) -> None:
        super().__init__()
        self.kind, self.fuse, self.channels = kind, fuse, channels
        if kind != "open":
            self.table = nn.Embedding(classes, embedding)
            self.layers = nn.Sequential(
                nn.Linear(embedding, 2 * embedding),
                nn.LayerNorm(2 * embedding),
                nn.ReLU(inplace=True),
                nn.Linear(2 * embedding, channels),
            )

    def forward(
        self, one: Int64[Tensor, "n"], other: Int64[Tensor, "n"], noise: Float[Tensor, "n d"] | None = None
    ) -> Float[Tensor, "n d"]:
        """The gate of each pair, 0…1; `noise`: standard normal, of a stochastic gate in training."""
        if self.kind == "open":
            return torch.ones(len(one), self.channels, device=one.device)
        if self.fuse:
            return self._opened(self.layers((self.table(one) + self.table(other)) / 2), noise)
        return self._opened(self.layers(self.table(one)), noise) * self._opened(self.layers(self.table(other)), noise)

    def _opened(self, drive: Tensor, noise: Tensor | None) -> Tensor:
        if self.kind == "sigmoid":
            return drive.sigmoid()
        return F.hardsigmoid(drive if noise is None else drive + 0.5 * noise)


def gated_likeness(z: Float[Tensor, "n d"], gate: Float[Tensor, "n d"], k: Float[Tensor, "all d"]) -> Float[Tensor, "n all"]:
    """The cosine of each row of `z` and all of `k`, both through the gate of the row of `z`, by two matrix products."""
    chosen = F.normalize(z * gate, dim=1)
    lengths = (gate.square() @ k.square().T).clamp_min(1e-24).sqrt()
    return (chosen * gate) @ k.T / lengths


def pair_losses(
    likeness: Float[Tensor, "n all"], positive: Bool[Tensor, "n all"], negative: Bool[Tensor, "n all"]
) -> tuple[Float[Tensor, "n"], Bool[Tensor, "n"]]:
    """The loss of each anchor, the mean over its positives of choosing that one among its negatives; and which anchors have both.

    Those without have 0.
    """
    counted = positive.any(1) & negative.any(1)
    hidden = likeness.masked_fill(~negative, -torch.inf)
    rest = torch.where(counted[:, None], hidden, torch.zeros_like(hidden)).logsumexp(1)
    each = F.softplus(rest[:, None] - likeness)
    mean = (each * positive).sum(1) / positive.sum(1).clamp_min(1)
    return torch.where(counted, mean, torch.zeros_like(mean)), counted
