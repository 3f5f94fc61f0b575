"""The residual encoder of nnU-Net, with the names of its network (`encoder.stem…`, `encoder.stages…`), each tensor once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from medssl.artefacts.encoder import ExportedContract
from medssl.core.bounds import Widths
from medssl.core.errors import StudyError
from medssl.nn.backbone import Backbone
from medssl.nn.pair_mean import PairMean3d

TITLE = "residual encoder of nnU-Net"
SOURCE = "Isensee et al., MICCAI 2024, arXiv 2404.09556"
MAPS = "features"
"""How many maps it has, or the option with a number for each."""
HAS_BRANCHES = True
"""Whether it has residual branches, which training may skip (stochastic depth)."""
LIBRARIES = {"nnunet": {"spatial_dims": 3, "features": [32, 64, 128, 256, 320, 320], "blocks": [1, 3, 4, 6, 6, 6]}}
"""Libraries that have this network (files of `nn/adapters`), and the required options."""
SLOPE = 0.01
"""Of leaky ReLU below 0."""


class ResEnc(Backbone):
    """nnU-Net's ResEncL by default: stem, then stages of residual blocks (ResNet-D shortcuts), instance norm, leaky ReLU.

    Options:
        features: channels of each stage; every stage but the first halves the size.
        blocks: residual blocks of each stage.

    Source: Isensee et al., "nnU-Net Revisited", arXiv 2404.09556, appendix; He et al., arXiv 1812.01187 (ResNet-D).
    """

    is_unet = True

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        features: Widths = (32, 64, 128, 256, 320, 320),
        blocks: Widths = (1, 3, 4, 6, 6, 6),
    ) -> None:
        super().__init__()
        if len(features) != len(blocks):
            raise StudyError(f"backbone 'resenc': got {len(features)} features and {len(blocks)} blocks, expected as many.")
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.channels = tuple(features)
        self.strides = tuple(2**level for level in range(len(features)))
        self.stage_names = tuple(f"encoder.stages.{level}" for level in range(len(features)))
        self.branch_ends = tuple(f"encoder.stages.{s}.blocks.{n}.conv2" for s, count in enumerate(blocks) for n in range(count))
        stem = Stem(Convolution(spatial_dims, in_channels, features[0], 3))
        stages, before = [], features[0]
        for level, (after, count) in enumerate(zip(features, blocks, strict=True)):
            first = Residual(spatial_dims, before, after, stride=2 if level else 1)
            stages.append(Stage([first, *(Residual(spatial_dims, after, after) for _ in range(count - 1))]))
            before = after
        self.encoder = Encoder(stem, stages)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(module.weight, a=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, Residual):
                nn.init.zeros_(module.conv2.norm.weight)

    def of_elsewhere(
        self, found: dict[str, Tensor], exported: ExportedContract | None = None
    ) -> tuple[dict[str, Tensor], list[str]]:
        """nnU-Net names each tensor twice, its kernels have the axes (k, j, i), and a whole network has a decoder."""
        if not any(".all_modules." in name for name in found):
            return found, []
        own = {name: tensor for name, tensor in found.items() if not name.startswith("decoder.")}
        turned = {name: t.movedim((2, 3, 4), (4, 3, 2)).contiguous() if t.ndim == 5 else t for name, t in own.items()}
        changes = ["kernels turned from nnU-Net's axes (k, j, i) to (i, j, k)"] if any(t.ndim == 5 for t in own.values()) else []
        return turned, changes + (["its decoder is dropped"] if len(own) < len(found) else [])

    def forward(self, x: Float[Tensor, "n c *size"], depth: int | None = None) -> list[Float[Tensor, "n _ ..."]]:
        self.check(x)
        x, maps = self.encoder.stem(x), []
        for stage in list(self.encoder.stages)[:depth]:
            x = stage(x)
            maps.append(x)
        return maps


class Encoder(nn.Module):
    """The stem and the stages, under their names in nnU-Net's files."""

    def __init__(self, stem: Stem, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*stages)


class Stem(nn.Module):
    """The convolution before the first stage."""

    def __init__(self, convolution: Convolution) -> None:
        super().__init__()
        self.convs = nn.Sequential(convolution)

    def forward(self, x: Float[Tensor, "n _ ..."]) -> Float[Tensor, "n _ ..."]:
        return self.convs(x)


class Stage(nn.Module):
    """Residual blocks at one resolution; the first may halve it."""

    def __init__(self, blocks: Sequence[Residual]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Float[Tensor, "n _ ..."]) -> Float[Tensor, "n _ ..."]:
        return self.blocks(x)


class Convolution(nn.Module):
    """Convolution and instance norm, by default with leaky ReLU. nnU-Net's files hold each tensor under a second name too."""

    second_names: ClassVar[dict[str, str]] = {
        f"all_modules.{number}.{tensor}": f"{part}.{tensor}"
        for number, part in enumerate(("conv", "norm"))
        for tensor in ("weight", "bias")
    }
    """Names in public files for the same tensor as another; see `nn.weights.once`."""

    def __init__(
        self,
        dims: int,
        before: int,
        after: int,
        kernel: int,
        *,
        stride: int = 1,
        bias: bool = True,
        activate: bool = True,
        slope: float = SLOPE,
    ) -> None:
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
        self.conv = convolution(before, after, kernel, stride=stride, padding=kernel // 2, bias=bias)
        self.norm = norm(after, eps=1e-5, affine=True)
        self.activate, self.slope = activate, slope

    def forward(self, x: Float[Tensor, "n _ ..."]) -> Float[Tensor, "n _ ..."]:
        x = self.norm(self.conv(x))
        return F.leaky_relu(x, self.slope, inplace=True) if self.activate else x


class Residual(nn.Module):
    """Two convolutions and a shortcut: mean over blocks if the stride is 2, a 1×1 convolution if the channels change."""

    def __init__(self, dims: int, before: int, after: int, *, stride: int = 1, bias: bool = True, slope: float = SLOPE) -> None:
        super().__init__()
        self.slope = slope
        self.conv1 = Convolution(dims, before, after, 3, stride=stride, bias=bias, slope=slope)
        self.conv2 = Convolution(dims, after, after, 3, bias=bias, activate=False)
        shortcut: list[nn.Module] = []
        if stride > 1:
            shortcut.append(nn.AvgPool2d(2, 2) if dims == 2 else PairMean3d())
        if before != after:
            shortcut.append(Convolution(dims, before, after, 1, bias=False, activate=False))
        self.skip = nn.Sequential(*shortcut) if shortcut else nn.Identity()

    def forward(self, x: Float[Tensor, "n _ ..."]) -> Float[Tensor, "n _ ..."]:
        return F.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), self.slope, inplace=True)
