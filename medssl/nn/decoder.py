"""A U-Net decoder over any backbone: its maps are the skip connections, a shallow branch keeps the full resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from monai.networks.nets.basic_unet import TwoConv
from torch import Tensor, nn

from medssl.core.errors import StudyError
from medssl.nn.backbone import Backbone

MIN_WIDTH = 16
MAX_WIDTH = 256


class Decoder(nn.Module):
    """Levels from deep to shallow, the first `blocks` of them (None: all, and the output has the input's size).

    Each level doubles the resolution by nearest neighbours (or matches that of the next shallower map), joins that map and
    applies two convolutions with instance norm. Nearest neighbours have a deterministic backward pass on a GPU. Maps of one
    resolution, of a transformer, are enlarged first: twice, four times, and so on from deep to shallow.

    Source: Ronneberger et al., arXiv 1505.04597; the convolution pair is MONAI's.
    """

    def __init__(self, backbone: Backbone, *, blocks: int | None = None) -> None:
        super().__init__()
        rank = backbone.spatial_dims
        self.skips = backbone.skips or tuple(range(len(backbone.channels)))
        self.one_resolution = backbone.one_resolution
        channels = [backbone.channels[number] for number in self.skips]
        whole = len(channels)
        if blocks is not None and not 1 <= blocks <= whole:
            raise StudyError(f"a decoder over this backbone has 1 to {whole} blocks, got {blocks}. Correct the option blocks.")
        full = max(MIN_WIDTH, min(channels[0] // 2, 32))
        blocks = whole if blocks is None else blocks
        self.shallow = _convolutions(rank, backbone.in_channels, full) if blocks == whole else None
        skips = [full, *channels[:-1]]
        levels, below = [], channels[-1]
        for skip in list(reversed(skips))[:blocks]:
            width = max(MIN_WIDTH, min(skip, MAX_WIDTH))
            levels.append(_convolutions(rank, below + skip, width))
            below = width
        self.levels = nn.ModuleList(levels)
        self.width = below
        """Channels of the output."""

    def forward(
        self, images: Float[Tensor, "n c *size"], maps: list[Float[Tensor, "n _ ..."]]
    ) -> Float[Tensor, "n {self.width} ..."]:
        """From the images `(n, c, *size)` and the backbone's maps to the map of the last level, `(n, width, …)`."""
        if images.device.type == "cpu":
            maps = [level.contiguous() for level in maps]  # these norms are slow in channels-last order on a CPU
        maps = [maps[number] for number in self.skips]
        skips = [None if self.shallow is None else self.shallow(images), *maps]
        x = maps[-1]
        for number, (level, skip) in enumerate(zip(self.levels, reversed(skips[:-1]), strict=False), start=1):
            if self.one_resolution and number < len(maps):
                size = [min(2**number * side, full) for side, full in zip(skip.shape[2:], images.shape[2:], strict=True)]
                skip = F.interpolate(skip, size=size, mode="nearest")
            if x.shape[2:] != skip.shape[2:]:
                x = F.interpolate(x, size=skip.shape[2:], mode="nearest")
            x = level(torch.cat([x, skip], dim=1))
        return x


def _convolutions(rank: int, inside: int, outside: int) -> nn.Module:
    return TwoConv(
        rank,
        inside,
        outside,
        ("LeakyReLU", {"negative_slope": 0.01, "inplace": True}),
        ("group", {"num_groups": outside, "affine": True}),  # = instance norm, whose own code in torch takes up to 4× as long
        bias=False,
    )
