"""The decoder's norm is instance norm, whatever it is called in the code."""

from __future__ import annotations

import copy

import torch
from torch import nn

from medssl.nn.backbone import build
from medssl.nn.decoder import Decoder
from medssl.nn.layout import lay_out, layout_of

RESNET = ("resnet18", {"width": 0.125, "stem": "small"})


def with_torchs_own_norm(module: nn.Module) -> nn.Module:
    """The same weights, every group norm replaced by torch's instance norm."""
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            norm = nn.InstanceNorm2d(child.num_channels, eps=child.eps, affine=True, dtype=torch.float64)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            with_torchs_own_norm(child)
    return module


def test_group_norm_of_single_channels_is_instance_norm() -> None:
    torch.manual_seed(0)
    backbone = build(*RESNET, 2, 1).double().eval()
    decoder = Decoder(backbone).double()
    for norm in (m for m in decoder.modules() if isinstance(m, nn.GroupNorm)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    images = torch.rand(2, 1, 32, 32, dtype=torch.float64)
    maps = backbone(images)
    other = with_torchs_own_norm(copy.deepcopy(decoder))
    assert any(isinstance(m, nn.InstanceNorm2d) for m in other.modules())
    torch.testing.assert_close(decoder(images, maps), other(images, maps), rtol=0, atol=1e-12)


def test_the_memory_order_of_a_backbone_changes_nothing_but_rounding() -> None:
    torch.manual_seed(0)
    backbone = build(*RESNET, 2, 1).double().eval()
    images = torch.rand(2, 1, 32, 32, dtype=torch.float64)
    plain = backbone(images)
    ordered = lay_out(copy.deepcopy(backbone), torch.device("cpu"))
    assert layout_of(backbone, 4) == torch.contiguous_format and layout_of(ordered, 4) == torch.channels_last
    for a, b in zip(plain, ordered(images), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    instance = build("resenc", {"features": [8, 16], "blocks": [1, 1]}, 2, 1)
    assert layout_of(lay_out(instance, torch.device("cpu")), 4) == torch.contiguous_format
