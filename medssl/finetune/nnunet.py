"""nnU-Net's own decoder over its residual encoder: transposed convolutions, one skip connection and one convolution per level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.core.errors import StudyError
from medssl.nn.backbone import Backbone
from medssl.nn.backbones.resenc import Convolution, ResEnc


class ResEncUNet(nn.Module):
    """The residual encoder U-Net of nnU-Net, without deep supervision; its full-resolution map is the encoder's first.

    Source: Isensee et al., "nnU-Net Revisited", arXiv 2404.09556 (ResEncL: 102 million parameters in 3-D).
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        if not isinstance(backbone, ResEnc):
            raise StudyError(
                f"decoder nnunet is nnU-Net's, for the backbone resenc, got {type(backbone).__name__.lower()}. "
                "Set finetune.<task>.options.decoder to unet."
            )
        self.backbone = backbone
        self.decoder = ResEncDecoder(backbone)
        self.head = (nn.Conv2d if backbone.spatial_dims == 2 else nn.Conv3d)(backbone.channels[0], num_classes, 1)
        nn.init.kaiming_normal_(self.head.weight, a=0.01)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.gates: nn.Module = nn.Identity()
        self.reads = tuple(range(len(backbone.channels)))
        """The numbers of the maps that the decoder reads."""

    def forward(self, images: Tensor) -> Tensor:
        """Images `(n, c, *size)` to logits `(n, classes, *size)`.

        Raises:
            StudyError: a side of the images cannot be halved as often as the encoder does.
        """
        step = self.backbone.strides[-1]
        if any(side % step for side in images.shape[2:]):
            raise StudyError(f"decoder nnunet takes sides that are multiples of {step}, got size {list(images.shape[2:])}.")
        return self.head(self.decoder(self.gates(self.backbone(images))))


class ResEncDecoder(nn.Module):
    """Parts named as in nnU-Net's files (`transpconvs`, `stages.N.convs.0`), the deepest first."""

    def __init__(self, backbone: ResEnc) -> None:
        super().__init__()
        rank, channels = backbone.spatial_dims, backbone.channels
        transposed = nn.ConvTranspose2d if rank == 2 else nn.ConvTranspose3d
        ups, stages = [], []
        for below, skip in zip(reversed(channels[1:]), reversed(channels[:-1]), strict=True):
            ups.append(transposed(below, skip, 2, 2))
            stage = nn.Module()
            stage.convs = nn.Sequential(Convolution(rank, 2 * skip, skip, 3))
            stages.append(stage)
        self.transpconvs, self.stages = nn.ModuleList(ups), nn.ModuleList(stages)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(module.weight, a=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The encoder's maps to one with the size of the first."""
        x = maps[-1]
        for up, stage, skip in zip(self.transpconvs, self.stages, reversed(maps[:-1]), strict=True):
            x = stage.convs(torch.cat([up(x), skip], dim=1))  # type: ignore[operator]
        return x
