"""An encoder for MONAI's ResNet and BasicUNet."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from medssl.artefacts.encoder import Contract
from medssl.core import plugins
from medssl.nn.adapters._common import python, require
from medssl.nn.backbone import build
from medssl.nn.weights import save_tensors


def monai(tensors: dict[str, Tensor], contract: Contract, out: Path) -> list[Path]:
    """Write weights for the network of `network`, MONAI's ResNet or BasicUNet.

    Raises:
        StudyError: MONAI has no such network.
    """
    require(contract, "monai")
    target = out / f"{contract.backbone}.safetensors"
    save_tensors(target, tensors)
    return [target]


def network(contract: Contract) -> str:
    """The expression that builds the network for the weights, without a U-Net's decoder."""
    return build(contract.backbone, contract.backbone_options, contract.spatial_dims, contract.in_channels).monai


def code(contract: Contract) -> str:
    """The lines that make the network and load the weights."""
    missing = "the decoder" if plugins.find("backbone", contract.backbone).load().is_unet else ""
    return python("import monai", f"model = {network(contract)}", f"{contract.backbone}.safetensors", missing=missing)
