"""An encoder for MONAI's ResNet and BasicUNet."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from medssl.artefacts.encoder import Contract
from medssl.nn.adapters._common import require
from medssl.nn.weights import save_tensors


def monai(tensors: dict[str, Tensor], contract: Contract, out: Path) -> list[Path]:
    """Write weights for `monai.networks.nets.resnetNN(feed_forward=False, bias_downsample=False, …)` or `BasicUNet`.

    Raises:
        StudyError: MONAI has no such network.
    """
    require(contract, "monai", backbones=("resnet18", "resnet34", "resnet50", "unet"))
    target = out / f"{contract.backbone}.safetensors"
    save_tensors(target, tensors)
    return [target]
