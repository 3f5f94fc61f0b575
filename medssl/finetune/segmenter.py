"""A network for segmentation over any backbone; the output has the input's size whatever the backbone's strides."""

from __future__ import annotations

from torch import Tensor, nn

from medssl.nn.backbone import Backbone
from medssl.nn.decoder import Decoder


class Segmenter(nn.Module):
    """Backbone, U-Net decoder, and a 1×1 convolution to the classes."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = Decoder(backbone)
        self.head = (nn.Conv2d if backbone.spatial_dims == 2 else nn.Conv3d)(self.decoder.width, num_classes, 1)
        self.gates: nn.Module = nn.Identity()
        self.reads = self.decoder.skips
        """The numbers of the maps that the decoder reads."""

    def forward(self, images: Tensor) -> Tensor:
        """Images `(n, c, *size)` to logits `(n, classes, *size)`."""
        return self.head(self.decoder(images, self.gates(self.backbone(images))))
