"""Blocks of a vision transformer, with timm's names.

Source: Dosovitskiy et al., arXiv 2010.11929, §3.1; the factors of the branches: Touvron et al., arXiv 2103.17239, §2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from medssl.nn.positions import rotated


class Block(nn.Module):
    """Norm and attention, then norm and dense layers; each is scaled and added."""

    def __init__(self, width: int, heads: int, layer_scale: float, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=epsilon)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=epsilon)
        self.mlp = FeedForward(width)
        self.ls2 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()

    def forward(
        self, tokens: Float[Tensor, "n tokens d"], angles: Float[Tensor, "*n places e"] | None
    ) -> Float[Tensor, "n tokens d"]:
        """Tokens to tokens; `angles` of the last ones are their rotary positions."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), angles))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class Attention(nn.Module):
    """Every token looks at every token, in several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "n tokens d"], angles: Float[Tensor, "*n places e"] | None) -> Float[Tensor, "n tokens d"]:
        """Tokens to tokens; `angles` turn the queries and keys of the last ones."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """The two dense layers of a block; channels are the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*places c"]) -> Float[Tensor, "*places c"]:
        """Each place on its own."""
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Float[Tensor, "n tokens d"]) -> Float[Tensor, "n tokens d"]:
        """Scaled channels."""
        return x * self.gamma
