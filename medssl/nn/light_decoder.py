"""From the maps of active patches to a whole image: learned tokens in the gaps, and a light U-Net decoder.

Source: Tian et al., arXiv 2301.03580, §3.2, figure 2; widths and initial weights as in the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medssl.nn.sparse import Patches

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Filling(nn.Module):
    """Completes a map of active blocks: a learned token fills the places without an active patch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(channels), std=0.02))

    def forward(self, blocks: Float[Tensor, "nk c *block"], patches: Patches) -> Float[Tensor, "n c *size"]:
        """`(n · k, c, *block)` to `(n, c, *size)`."""
        return patches.unpack(blocks, self.token)


class Densify(Filling):
    """The same for normalised blocks, projected to the width of a decoder's level."""

    def __init__(self, norm: nn.Module, dims: int, channels: int, width: int, kernel: int) -> None:
        super().__init__(channels)
        self.norm = norm
        same = kernel == 1 and channels == width
        self.project = nn.Identity() if same else CONVOLUTION[dims](channels, width, kernel, padding=kernel // 2)

    def forward(self, blocks: Float[Tensor, "nk c *block"], patches: Patches) -> Float[Tensor, "n width *size"]:
        """`(n · k, channels, *block)` to `(n, width, *size)`."""
        return self.project(super().forward(self.norm(blocks), patches))


class LightDecoder(nn.Module):
    """Doubles the resolution level by level and halves the width; each map joins at its stride.

    `channels` and `strides` are those of the encoder's maps, shallow to deep; each stride is a power of two.
    """

    def __init__(
        self, dims: int, channels: Sequence[int], strides: Sequence[int], width: int, image_channels: int, norm: type[nn.Module]
    ) -> None:
        super().__init__()
        levels = int(math.log2(strides[-1]))
        widths = [max(1, width >> level) for level in range(levels + 1)]
        joins = {int(math.log2(stride)): number for number, stride in enumerate(strides)}
        self.map_at_level = [joins.get(levels - level) for level in range(levels + 1)]
        self.densify = nn.ModuleList(
            Densify(norm(count), dims, count, widths[levels - int(math.log2(stride))], 1 if number == len(strides) - 1 else 3)
            for number, (count, stride) in enumerate(zip(channels, strides, strict=True))
        )
        self.blocks = nn.ModuleList(_up(dims, before, after) for before, after in pairwise(widths))
        self.head = CONVOLUTION[dims](widths[-1], image_channels, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            bias = getattr(module, "bias", None)
            if isinstance(bias, Tensor):
                nn.init.zeros_(bias)

    def forward(self, maps: list[Float[Tensor, "nk _ ..."]], patches: Patches) -> Float[Tensor, "n c *size"]:
        """Packed maps, shallow to deep, to images `(n, image_channels, *size)`."""
        return self.raised([densify(blocks, patches) for densify, blocks in zip(self.densify, maps, strict=True)])

    def raised(self, whole: list[Float[Tensor, "n _ ..."]]) -> Float[Tensor, "n c *size"]:
        """Densified maps, shallow to deep, to images."""
        x: Tensor | float = 0.0
        for level, joined in enumerate(self.map_at_level):
            if joined is not None:
                x = x + whole[joined]
            if level < len(self.blocks):
                x = self.blocks[level](x)
        return self.head(x)


def _up(dims: int, before: int, after: int) -> nn.Sequential:
    convolution, norm = CONVOLUTION[dims], NORM[dims]
    return nn.Sequential(
        TRANSPOSED[dims](before, before, 4, stride=2, padding=1),
        convolution(before, before, 3, padding=1, bias=False),
        norm(before),
        nn.ReLU6(inplace=True),
        convolution(before, after, 3, padding=1, bias=False),
        norm(after),
    )
