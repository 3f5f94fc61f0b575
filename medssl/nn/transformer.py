"""Blocks of a vision transformer, with timm's names.

Source: Dosovitskiy et al., arXiv 2010.11929, §3.1; the factors of the branches: Touvron et al., arXiv 2103.17239, §2; gates:
Shazeer, arXiv 2002.05202; norms inside the branches: Fang et al., EVA-02, arXiv 2303.11331, §2.1.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from medssl.nn.positions import rotated

Perceptron = Literal["gelu", "swiglu"]


class Block(nn.Module):
    """Norm and attention, then norm and dense layers; each is scaled and added.

    `normed`: as in EVA-02 and Primus, both branches have a norm inside too, the dense layers are gated, and keys have no bias.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layer_scale: float,
        epsilon: float = 1e-6,
        perceptron: Perceptron = "gelu",
        *,
        normed: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=epsilon)
        self.attn = NormedAttention(width, heads, epsilon) if normed else Attention(width, heads)
        self.ls1 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=epsilon)
        self.mlp = NormedGate(width, epsilon) if normed else Gate(width) if perceptron == "swiglu" else FeedForward(width)
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
        return self.proj(attended(self.qkv(x), self.heads, angles))


class NormedAttention(nn.Module):
    """The same with a norm before the last layer, and keys without bias."""

    def __init__(self, width: int, heads: int, epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.norm = nn.LayerNorm(width, eps=epsilon)

    def forward(self, x: Float[Tensor, "n tokens d"], angles: Float[Tensor, "*n places e"] | None) -> Float[Tensor, "n tokens d"]:
        """Tokens to tokens; `angles` turn the queries and keys of the last ones."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return self.proj(self.norm(attended(F.linear(x, self.qkv.weight, bias), self.heads, angles)))


def attended(
    qkv: Float[Tensor, "n tokens _"], heads: int, angles: Float[Tensor, "*n places e"] | None
) -> Float[Tensor, "n tokens d"]:
    """The values of all tokens, weighed by softmax over products of queries and keys; of each head its part of the channels."""
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    if angles is not None:
        q, k = rotated(q, angles), rotated(k, angles)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """The two dense layers of a block; channels are the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*places c"]) -> Float[Tensor, "*places c"]:
        """Each place on its own."""
        return self.fc2(F.gelu(self.fc1(x)))


class Gate(nn.Module):
    """Two dense layers with a gate between them, of as many weights: the first layer holds the gate and the gated values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inside = gated_width(width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * inside), nn.Linear(inside, width)

    def forward(self, x: Float[Tensor, "*places c"]) -> Float[Tensor, "*places c"]:
        """Each place on its own."""
        gate, values = self.fc1(x).chunk(2, -1)
        return self.fc2(F.silu(gate) * values)


class NormedGate(nn.Module):
    """The same with a norm before the last layer; gate and values have a layer each."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        inside = 8 * width // 3
        self.fc1_g, self.fc1_x, self.fc2 = nn.Linear(width, inside), nn.Linear(width, inside), nn.Linear(inside, width)
        self.norm = nn.LayerNorm(inside, eps=epsilon)

    def forward(self, x: Float[Tensor, "*places c"]) -> Float[Tensor, "*places c"]:
        """Each place on its own."""
        return self.fc2(self.norm(F.silu(self.fc1_g(x)) * self.fc1_x(x)))


def gated_width(width: int) -> int:
    """Two thirds of the usual 4 × `width`, up to the next multiple of 8, as in DINOv2's released code."""
    return (8 * width // 3 + 7) // 8 * 8


class LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Float[Tensor, "n tokens d"]) -> Float[Tensor, "n tokens d"]:
        """Scaled channels."""
        return x * self.gamma
