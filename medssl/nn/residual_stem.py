"""Tokens of patches by convolutions that halve an image until a patch is one place, with the names of PrimusV2."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from medssl.nn.backbones.resenc import Residual, Stage

FIRST = 32
"""Channels at full and at half size; each further halving doubles them."""


class ResidualStem(nn.Module):
    """A residual block at full size, one after each halving, and a dense layer of each place.

    Source: Wald et al., Primus, arXiv 2503.01835, v2, "PrimusV2".
    """

    def __init__(self, spatial_dims: int, in_channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.stem = Stage([Residual(spatial_dims, in_channels, FIRST, slope=0.0)])
        stages, before = [], FIRST
        for level in range(patch.bit_length() - 1):
            after = FIRST * 2**level
            stages.append(Stage([Residual(spatial_dims, before, after, stride=2, slope=0.0, bias=False)]))
            before = after
        self.stages = nn.Sequential(*stages)
        self.final_proj = (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(before, width, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(module.weight, a=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n d *grid"]:
        """Images to a token of each patch."""
        return self.final_proj(self.stages(self.stem(x)))
