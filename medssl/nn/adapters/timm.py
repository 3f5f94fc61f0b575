"""An encoder for timm's ResNet and ConvNeXt."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from medssl.artefacts.encoder import Contract
from medssl.nn.adapters._common import python, require
from medssl.nn.backbone import call
from medssl.nn.weights import save_tensors


def timm(tensors: dict[str, Tensor], contract: Contract, out: Path) -> list[Path]:
    """Write weights for `timm.create_model(name, in_chans=…, features_only=True)`, names unchanged.

    Raises:
        StudyError: the encoder is 3-D, or timm has no such network.
    """
    require(contract, "timm")
    target = out / f"{contract.backbone}.safetensors"
    save_tensors(target, tensors)
    return [target]


def network(contract: Contract) -> str:
    """The expression that builds the network for the weights, whose output is the mean of its deepest map."""
    return call("timm.create_model", {"model_name": contract.backbone, "in_chans": contract.in_channels, "num_classes": 0})


def code(contract: Contract) -> str:
    """The lines that make the network and load the weights; its ConvNeXt has a norm after the last map, which encoders lack."""
    missing = "" if contract.backbone.startswith("resnet") else "the norm before the head"
    return python("import timm", f"model = {network(contract)}", f"{contract.backbone}.safetensors", missing=missing)
