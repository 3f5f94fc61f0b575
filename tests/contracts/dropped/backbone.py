"""One convolution."""

from __future__ import annotations

from torch import Tensor, nn

from medssl.core.bounds import Count
from medssl.nn.backbone import Backbone

TITLE = "One convolution"
SOURCE = "the test of dropped plug-ins"


class OneConvolution(Backbone):
    """A strided convolution and a ReLU.

    Options:
        width: channels of its only map.
    """

    def __init__(self, spatial_dims: int, in_channels: int, *, width: Count = 4) -> None:
        super().__init__()
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.channels, self.strides, self.stage_names = (width,), (2,), ("conv",)
        self.conv = (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(in_channels, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, depth: int | None = None) -> list[Tensor]:
        self.check(x)
        return [self.conv(x).relu()][:depth]
