"""From the slices of a volume to the volume: slice embeddings, and attention between slices with learned positions.

Source: Nguyen et al., "Joint self-supervised image-volume representation learning with intra-inter contrastive clustering",
AAAI 2023, arXiv 2212.01893.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from medssl.core.errors import StudyError
from medssl.nn.backbone import wide
from medssl.nn.gather import normalised

SPACING = 4
"""Slices per key, if there are more than this many."""
REACH = 2.0
"""How far a key can move, in distances between keys."""
POSITION_SCALE = 64.0
"""Slices of the paper's volumes: positions are encoded as if every volume had this many."""


class VolumeEncoder(nn.Module):
    """Maps of a 2-D network to slice embeddings by a projection, and slice embeddings to those of a volume's slices.

    `channels` are those of the 2-D network's maps. The projection starts orthonormal and is saved with the weights: without it
    the transformer is useless. `positions` adds to each slice its relative place in the volume.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int = 640,
        layers: int = 4,
        heads: int = 8,
        feed_forward: int = 720,
        dropout: float = 0.0,
        positions: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise StudyError(f"the slice transformer's width {width} cannot be divided among {heads} heads. Change one of them.")
        self.width, self.positions = width, positions
        self.projection = nn.Linear(sum(channels) + channels[-1], width)
        nn.init.orthogonal_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.layers = nn.ModuleList(SliceLayer(width, heads, feed_forward, dropout) for _ in range(layers))

    def embed(self, maps: Sequence[Float[Tensor, "n _ ..."]]) -> Float[Tensor, "n {self.width}"]:
        """Maps `(n, channels, …)` to slice embeddings `(n, width)`: their means, each of unit length, the last twice, projected.

        Twice, as the paper's code joins the mean of its last map and the network's pooled output, which are the same numbers.
        """
        means = [normalised(m.flatten(2).mean(2)) for m in maps]
        embedded: Tensor = self.projection(torch.cat([*means, means[-1]], 1))
        return embedded

    def forward(self, slices: Float[Tensor, "n slices width"]) -> Float[Tensor, "n slices width"]:
        """Slice embeddings `(n, slices, width)` in order along the volume, each to one that depends on all."""
        x = slices
        if self.positions:
            x = x + relative_positions(x.shape[1], self.width).to(x)
        for layer in self.layers:
            x = layer(x)
        return x


class SliceLayer(nn.Module):
    """Attention and a two-layer perceptron, normalised after each; dropout inside the perceptron and after each norm.

    Source: the authors' code of arXiv 2212.01893, except for the axis of its attention.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, heads)
        self.attention_norm = nn.LayerNorm(width)
        inner = nn.Linear(width, feed_forward)
        self.perceptron = nn.Sequential(inner, nn.GELU(), nn.Dropout(dropout), nn.Linear(feed_forward, width))
        self.perceptron_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "n slices width"]) -> Float[Tensor, "n slices width"]:
        """`(n, slices, width)` to the same shape."""
        x = self.dropout(self.attention_norm(x + self.attention(x)))
        return self.dropout(self.perceptron_norm(x + self.perceptron(x)))


class DeformableAttention(nn.Module):
    """Every slice attends to a few keys, which each head reads at learned places along the volume.

    The tokens are the slices (in the released code of arXiv 2212.01893 they are the features, and slices never interact).

    Source: Xia et al., "Vision transformer with deformable attention", arXiv 2201.00520, §3.2, in one dimension.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, share = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.surroundings = nn.Conv1d(share, share, 5, padding=2, groups=share)
        self.offset = nn.Linear(share, 1, bias=False)
        self.distance = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 1, bias=False))

    def forward(self, x: Float[Tensor, "n slices width"]) -> Float[Tensor, "n slices width"]:
        """`(n, slices, width)` to the same shape."""
        split = (self.heads, -1)
        query = self.query(x).unflatten(2, split)
        places = self.places(query)
        read = torch.einsum("nhms,nshe->nmhe", hat(places, x.shape[1]), x.unflatten(2, split)).flatten(2)
        key, value = self.key(read).unflatten(2, split), self.value(read).unflatten(2, split)
        away = torch.arange(x.shape[1]).to(places)[:, None] - places[:, :, None]
        bias = self.distance((away.sign() * away.abs().log1p())[..., None])[..., 0]
        logits = torch.einsum("nshe,nmhe->nhsm", query, key) / math.sqrt(key.shape[3]) + bias
        return self.out(torch.einsum("nhsm,nmhe->nshe", logits.softmax(3), value).flatten(2))

    def places(self, query: Float[Tensor, "n slices heads share"]) -> Float[Tensor, "n heads keys"]:
        """The places from which each head reads its keys, in slices, `(n, heads, keys)`; queries `(n, slices, heads, share)`."""
        query = wide(query)  # half precision cannot resolve places between far slices
        n, slices, heads = query.shape[:3]
        keys = max(min(slices, SPACING), math.ceil(slices / SPACING))
        step = slices / keys
        even = ((torch.arange(keys).to(query) + 0.5) * step - 0.5).clamp(0, slices - 1)
        around = self.surroundings(query.permute(0, 2, 3, 1).flatten(0, 1))
        seen = F.gelu(torch.einsum("bes,ms->bme", around, hat(even, slices)))
        moved = REACH * step * torch.tanh(wide(self.offset(seen))).view(n, heads, keys)
        return (even + moved).clamp(0, slices - 1)


def hat(places: Float[Tensor, "*shape"], slices: int) -> Float[Tensor, "*shape {slices}"]:
    """Weights `(…, slices)` that interpolate linearly between slices at `places` `(…)`; differentiable in the places."""
    return (1 - (places[..., None] - torch.arange(slices).to(places)).abs()).clamp_min(0)


def relative_positions(slices: int, width: int) -> Float[Tensor, "{slices} {width}"]:
    """Sines and cosines of the relative place of each slice, `(slices, width)` in rows of about unit length.

    Source: Vaswani et al., arXiv 1706.03762, §3.5.
    """
    place = (torch.arange(slices) + 0.5) / slices * POSITION_SCALE
    rate = torch.exp(-math.log(10_000) * torch.arange(0, width, 2) / width)
    angle = place[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)[:, :width] * math.sqrt(2 / width)


def in_bags(
    network: Callable[[Float[Tensor, "n slices width"]], Float[Tensor, "n slices width"]],
    x: Float[Tensor, "views n d"],
    bags: Sequence[Int64[Tensor, "_ _"]],
) -> Float[Tensor, "views n d"]:
    """A network over sequences applied to the rows of `x` `(views, n, d)` in `bags`, each row back in its place.

    Each of `bags` `(count, slices)` holds the rows of volumes with equally many slices; every row is in one bag.
    """
    made = [network(x[:, bag].flatten(0, 1)).unflatten(0, (len(x), -1)).flatten(1, 2) for bag in bags]
    order = torch.cat([bag.flatten() for bag in bags])
    return torch.cat(made, 1)[:, order.argsort()]


def volume_embedding(slices: Float[Tensor, "n slices width"]) -> Float[Tensor, "n slices width"]:
    """The mean of `(n, slices, width)` over slices, of unit length, given to each slice: the same shape."""
    return F.normalize(wide(slices).mean(1, keepdim=True), dim=2).expand(slices.shape)
