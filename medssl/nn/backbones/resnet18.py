"""ResNet-18, names equal torchvision's."""

from __future__ import annotations

from typing import Literal

from medssl.core.bounds import Positive
from medssl.nn.resnet import ResNetBackbone, resnet

TITLE = "ResNet-18"
SOURCE = "He et al., CVPR 2016, arXiv 1512.03385"
MAPS = 4
"""How many maps it has, or the option with a number for each."""
HAS_BRANCHES = True
"""Whether it has residual branches, which training may skip (stochastic depth)."""
LIBRARIES = {
    "torchvision": {"spatial_dims": 2, "stem": "imagenet", "width": 1.0},
    "timm": {"spatial_dims": 2, "stem": "imagenet", "width": 1.0},
    "monai": {},
}
"""Libraries that have this network (files of `nn/adapters`), and the required options."""


class ResNet18(ResNetBackbone):
    """ResNet-18 in 2-D or 3-D; `stem: small` keeps the resolution of images below about 100 pixels.

    Options:
        stem: `imagenet` halves the size twice before the first stage; `small` keeps it, for images below about 100
            pixels.
        width: factor of the public network's number of channels.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        stem: Literal["imagenet", "small"] = "imagenet",
        width: Positive = 1.0,
    ) -> None:
        super().__init__(**resnet(18, spatial_dims, in_channels, stem, width))
