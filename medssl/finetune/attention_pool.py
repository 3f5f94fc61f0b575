"""What an attentive probe chooses: one learned query attends to the places of the deepest map."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medssl.nn.backbone import Backbone, wide

MOST_HEADS = 8


class AttentionPool(nn.Module):
    """Attention of one learned query, in several heads, to the normalised places of a backbone's deepest map.

    Source: Chen et al., "Context Autoencoder", arXiv 2202.03026 ("attentive probing").
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.deepest = backbone.skips[-1] if backbone.skips else len(backbone.channels) - 1  # not a class token, of one place
        self.width = backbone.channels[self.deepest]
        self.norm = nn.LayerNorm(self.width)
        self.query = nn.Parameter(torch.randn(1, 1, self.width) * 0.02)
        self.attention = nn.MultiheadAttention(self.width, math.gcd(self.width, MOST_HEADS), batch_first=True)

    def forward(self, maps: list[Float[Tensor, "n _ ..."]]) -> Float[Tensor, "n {self.width}"]:
        """What the query sees."""
        places = self.norm(wide(maps[self.deepest]).flatten(2).transpose(1, 2))
        seen, _ = self.attention(self.query.expand(places.shape[0], -1, -1), places, places, need_weights=False)
        return seen[:, 0]
