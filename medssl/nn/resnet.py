"""MONAI's residual network as a backbone whose state-dict names are torchvision's."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from medssl.nn.backbone import Backbone, call

NARROW = 16
"""Channels below which oneDNN (in torch 2.13, channels last, AVX-512) writes past a buffer in the backward pass of a strided 1×1
convolution and crashes the process: https://github.com/uxlfoundation/oneDNN/issues/6035.
"""


class ResNetBackbone(Backbone):
    """The four stages of a ResNet as maps; `stem="small"` is a 3×3 convolution of stride 1 without pooling.

    Source: He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385; the small stem is that of its §4.2.
    """

    conv1: nn.Module
    bn1: nn.Module
    act: nn.Module
    maxpool: nn.Module
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, block: str, layers: tuple[int, ...], spatial_dims: int, in_channels: int, stem: str, width: float) -> None:
        super().__init__()
        small = stem == "small"
        planes = [max(1, round(c * width)) for c in (64, 128, 256, 512)]
        arguments: dict[str, Any] = {
            "block": block,
            "layers": list(layers),
            "block_inplanes": planes,
            "spatial_dims": spatial_dims,
            "n_input_channels": in_channels,
            "conv1_t_size": 3 if small else 7,
            "conv1_t_stride": 1 if small else 2,
            "no_max_pool": small,
            "feed_forward": False,
            "bias_downsample": False,  # torchvision's has no bias
        }
        whole = ResNet(**arguments)
        for name, child in whole.named_children():
            if name != "avgpool":
                self.add_module(name, child)
        self.monai = call("monai.networks.nets.ResNet", arguments)
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        expansion = 4 if block == "bottleneck" else 1
        self.channels = tuple(c * expansion for c in planes)
        self.strides = (1, 2, 4, 8) if small else (4, 8, 16, 32)
        self.stage_names = ("layer1", "layer2", "layer3", "layer4")
        last = "bn3" if block == "bottleneck" else "bn2"
        self.branch_ends = tuple(
            f"{stage}.{number}.{last}" for stage, count in zip(self.stage_names, layers, strict=True) for number in range(count)
        )
        if small:
            self.maxpool = nn.Identity()
        elif spatial_dims == 3:
            self.maxpool = SeparableMaxPool3d()
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            shortcut = stage[0].downsample
            pointwise = shortcut[0] if isinstance(shortcut, nn.Sequential) else None
            if isinstance(pointwise, (nn.Conv2d, nn.Conv3d)) and pointwise.in_channels < NARROW:
                _stride_first(pointwise)

    def forward(self, x: Float[Tensor, "n c *size"], depth: int | None = None) -> list[Float[Tensor, "n _ ..."]]:
        """Images `(n, c, *size)` to the maps of the (first `depth`) stages."""
        self.check(x)
        x = self.maxpool(self.act(self.bn1(self.conv1(x))))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4)[:depth]:
            x = stage(x)
            maps.append(x)
        return maps


def _stride_first(pointwise: nn.Conv2d | nn.Conv3d) -> None:
    """Subsample before a 1×1 convolution instead of striding in it: equal values from a convolution of stride 1."""
    if max(pointwise.stride) > 1:
        pointwise.stride = (1,) * len(pointwise.stride)
        pointwise.register_forward_pre_hook(_every_second)


def _every_second(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    rank = inputs[0].ndim - 2
    return (inputs[0][(slice(None), slice(None), *(slice(None, None, 2),) * rank)],)


class SeparableMaxPool3d(nn.Module):
    """3-D max-pooling by two 2-D poolings: equal values, and a backward pass that is deterministic on a GPU."""

    def __init__(self, kernel_size: int = 3, *, stride: int = 2, padding: int = 1) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Float[Tensor, "n c i j k"]) -> Float[Tensor, "n c _ _ _"]:
        """`(n, c, i, j, k)` to about half of each size."""
        return max_pool3d(x, self.kernel_size, self.stride, self.padding)


def max_pool3d(x: Float[Tensor, "n c i j k"], kernel: int, stride: int, padding: int = 0) -> Float[Tensor, "n c _ _ _"]:
    """`(n, c, i, j, k)` pooled in the plane of the last two axes, then along the first."""
    n, c, i, j, k = x.shape
    x = F.max_pool2d(x.reshape(n, c * i, j, k), kernel, stride=stride, padding=padding)
    j, k = x.shape[-2:]
    x = x.reshape(n, c, i, j * k)
    x = F.max_pool2d(x, (kernel, 1), stride=(stride, 1), padding=(padding, 0))
    return x.reshape(n, c, x.shape[2], j, k)


def resnet(depth: int, spatial_dims: int, in_channels: int, stem: str, width: float) -> dict[str, Any]:
    """The arguments of a ResNet of `depth` layers."""
    block, layers = {
        18: ("basic", (2, 2, 2, 2)),
        34: ("basic", (3, 4, 6, 3)),
        50: ("bottleneck", (3, 4, 6, 3)),
    }[depth]
    shape = {"spatial_dims": spatial_dims, "in_channels": in_channels}
    return {"block": block, "layers": layers, **shape, "stem": stem, "width": width}
