"""U-Net, names equal those of MONAI's BasicUNet."""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Float
from monai.networks.nets.basic_unet import BasicUNet, Down, TwoConv, UpCat
from torch import Tensor

from medssl.core.bounds import Count
from medssl.nn.backbone import Backbone, call
from medssl.nn.resnet import SeparableMaxPool3d

TITLE = "U-Net encoder"
SOURCE = "Falk et al., Nat Methods 2019;16:67"
MAPS = 5
"""How many maps it has, or the option with a number for each."""
LIBRARIES: dict[str, dict[str, Any]] = {"monai": {}}
"""Libraries that have this network (files of `nn/adapters`), and the required options."""


class UNet(Backbone):
    """The five levels of the encoder; with `decoder` also the decoder, which `decode` runs, for methods that train it.

    Options:
        features: channels of the five levels, and of the decoder's last map.
        norm: `instance`: over each image; `batch`: over the batch.
        decoder: whether it also has the decoder, for methods that train it.

    Source: Falk et al., "U-Net: deep learning for cell counting, detection, and morphometry", Nature Methods 16, 2019.
    """

    is_unet = True
    conv_0: TwoConv
    down_1: Down
    down_2: Down
    down_3: Down
    down_4: Down
    upcat_4: UpCat
    upcat_3: UpCat
    upcat_2: UpCat
    upcat_1: UpCat

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        features: tuple[Count, Count, Count, Count, Count, Count] = (32, 32, 64, 128, 256, 32),
        norm: Literal["instance", "batch"] = "instance",
        decoder: bool = False,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.channels, self.strides = tuple(features[:5]), (1, 2, 4, 8, 16)
        self.stage_names = ("conv_0", "down_1", "down_2", "down_3", "down_4")
        if decoder:
            self.decoder_names = ("upcat_",)
        arguments: dict[str, Any] = {
            "spatial_dims": spatial_dims,
            "in_channels": in_channels,
            "out_channels": 1,
            "features": tuple(features),
            "norm": (norm, {"affine": True}),
        }
        whole = BasicUNet(**arguments)
        self.monai = call("monai.networks.nets.BasicUNet", arguments)
        for name, child in whole.named_children():
            if name.startswith(("conv_0", "down_")) or (decoder and name.startswith("upcat_")):
                self.add_module(name, child)
        if spatial_dims == 3:
            for level in (self.down_1, self.down_2, self.down_3, self.down_4):
                level.max_pooling = SeparableMaxPool3d(2, stride=2, padding=0)

    def forward(self, x: Float[Tensor, "n c *size"], depth: int | None = None) -> list[Float[Tensor, "n _ ..."]]:
        self.check(x)
        maps = [self.conv_0(x)]
        for level in (self.down_1, self.down_2, self.down_3, self.down_4)[: None if depth is None else depth - 1]:
            maps.append(level(maps[-1]))
        return maps

    def decode(self, maps: list[Float[Tensor, "n _ ..."]], *, blocks: int = 4) -> list[Float[Tensor, "n _ ..."]]:
        """The decoder's maps after the first `blocks` of four blocks, deep to shallow."""
        x, made = maps[-1], []
        for number, block in list(enumerate((self.upcat_4, self.upcat_3, self.upcat_2, self.upcat_1)))[:blocks]:
            x = block(x, maps[3 - number])
            made.append(x)
        return made
