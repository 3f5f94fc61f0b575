"""An encoder for timm's ResNet and ConvNeXt."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from medssl.artefacts.encoder import Contract
from medssl.nn.adapters._common import require
from medssl.nn.weights import save_tensors


def timm(tensors: dict[str, Tensor], contract: Contract, out: Path) -> list[Path]:
    """Write weights for `timm.create_model(name, in_chans=…, features_only=True)`, names unchanged.

    Raises:
        StudyError: the encoder is 3-D, or timm has no such network.
    """
    names = ("resnet18", "resnet34", "resnet50", "convnext_tiny")
    require(contract, "timm", backbones=names, spatial_dims=2, stem="imagenet", width=1.0)
    target = out / f"{contract.backbone}.safetensors"
    save_tensors(target, tensors)
    return [target]
