"""A U-Net over any backbone: its maps are the skip connections, a shallow branch keeps the full resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.nets.basic_unet import TwoConv
from torch import Tensor, nn

MIN_WIDTH = 16
MAX_WIDTH = 256


class UNet(nn.Module):
    """Backbone and decoder; the output has the input's size whatever the backbone's strides.

    Each level doubles (or follows) the resolution of the next shallower map by nearest neighbours, joins that map and
    applies two convolutions with instance norm. Nearest neighbours have a deterministic backward pass on a GPU.

    Source: Ronneberger et al., arXiv 1505.04597; the convolution pair is MONAI's.
    """

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        rank, channels = int(backbone.spatial_dims), tuple(backbone.channels)  # type: ignore[arg-type]
        full = max(MIN_WIDTH, min(channels[0] // 2, 32))
        self.shallow = _convolutions(rank, int(backbone.in_channels), full)  # type: ignore[arg-type]
        skips = [full, *channels[:-1]]
        levels, below = [], channels[-1]
        for skip in reversed(skips):
            width = max(MIN_WIDTH, min(skip, MAX_WIDTH))
            levels.append(_convolutions(rank, below + skip, width))
            below = width
        self.levels = nn.ModuleList(levels)
        self.head = (nn.Conv2d if rank == 2 else nn.Conv3d)(below, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(n, c, *size)` to logits `(n, classes, *size)`."""
        maps = [self.shallow(images), *self.backbone(images)]
        x = maps[-1]
        for level, skip in zip(self.levels, reversed(maps[:-1]), strict=True):
            if x.shape[2:] != skip.shape[2:]:
                x = F.interpolate(x, size=skip.shape[2:], mode="nearest")
            x = level(torch.cat([x, skip], dim=1))
        return self.head(x)


def _convolutions(rank: int, inside: int, outside: int) -> nn.Module:
    return TwoConv(
        rank,
        inside,
        outside,
        ("LeakyReLU", {"negative_slope": 0.01, "inplace": True}),
        ("instance", {"affine": True}),
        bias=False,
    )
