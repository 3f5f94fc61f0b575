"""An encoder for torchvision's ResNet."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from medssl.artefacts.encoder import Contract
from medssl.nn.adapters._common import python, require, spread_over_rgb
from medssl.nn.backbone import call
from medssl.nn.weights import save_tensors


def torchvision(tensors: dict[str, Tensor], contract: Contract, out: Path) -> list[Path]:
    """Write `resnet.safetensors` for `torchvision.models.resnetNN(); model.fc = Identity()`; grey becomes three equal channels.

    Raises:
        StudyError: the encoder is not a 2-D ResNet with the ImageNet stem.
    """
    require(contract, "torchvision")
    target = out / f"{contract.backbone}.safetensors"
    save_tensors(target, spread_over_rgb(tensors, "conv1.weight"))
    return [target]


def network(contract: Contract) -> str:
    """The expression that builds the network for the weights, once its `fc` is `torch.nn.Identity()`."""
    return call(f"torchvision.models.{contract.backbone}", {})


def code(contract: Contract) -> str:
    """The lines that make the network and load the weights."""
    made = f"model = {network(contract)}\nmodel.fc = torch.nn.Identity()"
    return python("import torch\nimport torchvision", made, f"{contract.backbone}.safetensors")
