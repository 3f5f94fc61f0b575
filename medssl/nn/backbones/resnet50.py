"""ResNet-50, names equal torchvision's."""

from __future__ import annotations

from typing import Literal

from medssl.core.bounds import Positive
from medssl.nn.resnet import ResNetBackbone, resnet


class ResNet50(ResNetBackbone):
    """ResNet-50 in 2-D or 3-D; `stem: small` keeps the resolution of images below about 100 pixels."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        stem: Literal["imagenet", "small"] = "imagenet",
        width: Positive = 1.0,
    ) -> None:
        super().__init__(**resnet(50, spatial_dims, in_channels, stem, width))
