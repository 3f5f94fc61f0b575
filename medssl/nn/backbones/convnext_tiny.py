"""ConvNeXt-Tiny, names equal timm's."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medssl.artefacts.encoder import ExportedContract
from medssl.core.bounds import Positive, Weight
from medssl.nn.backbone import Backbone
from medssl.nn.channel_norm import ChannelNorm
from medssl.nn.transformer import FeedForward

TITLE = "ConvNeXt-Tiny"
SOURCE = "Liu et al., CVPR 2022, arXiv 2201.03545"
MAPS = 4
"""How many maps it has, or the option with a number for each."""
HAS_BRANCHES = True
"""Whether it has residual branches, which training may skip (stochastic depth)."""
LIBRARIES = {"timm": {"spatial_dims": 2, "width": 1.0}}
"""Libraries that have this network (files of `nn/adapters`), and the required options."""
RELEASED_NAMES = [
    ("^downsample_layers.0.|^stages.0.downsample_layers.", "stem."),
    ("^downsample_layers.([0-9]+).|^stages.([0-9]+).downsample_layers.", r"stages.\1\2.downsample."),
    ("^stages.([0-9]+).(?:layers.)?([0-9]+).", r"stages.\1.blocks.\2."),
    ("dwconv|depthwise_conv", "conv_dw"),
    ("(?:pw|pointwise_)conv", "mlp.fc"),
    ("layer_norm", "norm"),
]
"""Patterns of names in files of the paper's authors and of DINOv3, and in those for transformers, each with the name here."""


class ConvNeXtTiny(Backbone):
    """Four stages of depth-wise 7×7 blocks; `width` scales the 96 to 768 channels. The classifier's `head.*` is not part of it.

    Options:
        width: factor of the public network's number of channels.
        layer_scale: initial factor of each block's output.

    Source: Liu et al., "A ConvNet for the 2020s", arXiv 2201.03545, figure 4 and table 9.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, *, width: Positive = 1.0, layer_scale: Weight = 1e-6
    ) -> None:  # fmt: skip
        super().__init__()
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.channels = tuple(max(1, round(c * width)) for c in (96, 192, 384, 768))
        self.strides = (4, 8, 16, 32)
        self.stage_names = ("stages.0", "stages.1", "stages.2", "stages.3")
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.stem = nn.Sequential(convolution(in_channels, self.channels[0], 4, stride=4), ChannelNorm(self.channels[0]))
        stages, before = [], self.channels[0]
        depths = (3, 3, 9, 3)
        self.branch_ends = tuple(f"stages.{stage}.blocks.{n}.mlp" for stage, depth in enumerate(depths) for n in range(depth))
        for number, (depth, after) in enumerate(zip(depths, self.channels, strict=True)):
            halve = nn.Sequential(ChannelNorm(before), convolution(before, after, 2, stride=2)) if number else nn.Identity()
            stages.append(Stage(halve, [Block(convolution, after, layer_scale) for _ in range(depth)]))
            before = after
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def of_elsewhere(
        self, found: dict[str, Tensor], exported: ExportedContract | None = None
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Files of the paper's authors and of DINOv3 have other names, and a norm after pooling, which is dropped."""
        if not any("downsample_layers." in name for name in found):
            return found, []
        norms = [name for name in found if name.startswith(("norm.", "norms.", "layer_norm."))]
        named = {_renamed(name): tensor for name, tensor in found.items() if name not in norms}
        dropped = [f"the norm after pooling ({', '.join(norms)}) is dropped"] if norms else []
        return named, ["names of ConvNeXt's authors", *dropped]

    def forward(self, x: Float[Tensor, "n c *size"], depth: int | None = None) -> list[Float[Tensor, "n _ ..."]]:
        self.check(x)
        x, maps = self.stem(x), []
        for stage in list(self.stages)[:depth]:
            x = stage(x)
            maps.append(x)
        return maps


class Stage(nn.Module):
    """Blocks at one resolution, after the layer that halves the previous one."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Float[Tensor, "n _ *size"]) -> Float[Tensor, "n _ ..."]:
        return self.blocks(self.downsample(x))


class Block(nn.Module):
    """Depth-wise convolution, norm, two dense layers, scaled and added."""

    def __init__(self, convolution: type[nn.Module], channels: int, layer_scale: float) -> None:
        super().__init__()
        self.conv_dw = convolution(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = FeedForward(channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n c *size"]:
        y = self.mlp(self.norm(self.conv_dw(x).movedim(1, -1)))
        return x + (y * self.gamma).movedim(-1, 1)


def _renamed(name: str) -> str:
    for pattern, here in RELEASED_NAMES:
        name = re.sub(pattern.replace(".", "\\."), here, name)
    return name
