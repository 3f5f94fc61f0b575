"""An encoder in the layout of a model repository: `model.safetensors`, `config.json` and a model card. Nothing is uploaded."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from medssl.artefacts.encoder import Contract
from medssl.core.files import write_json
from medssl.nn.adapters._common import python
from medssl.nn.backbone import call
from medssl.nn.weights import save_tensors


def hf(tensors: dict[str, Tensor], contract: Contract, out: Path) -> list[Path]:
    """Write `model.safetensors` under the names of the encoder itself, and `config.json`, of which `code` makes the network.

    Every backbone can be written.
    """
    target = out / "model.safetensors"
    save_tensors(target, tensors)
    config = {
        "model_type": "medssl",
        "architectures": [contract.backbone],
        "library_name": "medssl",
        **{name: contract.plain()[name] for name in SHOWN if name in contract.plain()},
    }
    write_json(out / "config.json", config)
    return [target, out / "config.json"]


SHOWN = (
    "backbone", "backbone_options", "spatial_dims", "in_channels", "input_size", "orientation", "slice_axes", "spacing_mm",
    "window", "normalisation", "modalities",
)  # fmt: skip
"""What `config.json` has of the contract: how the network is built, and what an image must look like."""


def network(contract: Contract) -> str:
    """What makes the network that takes the weights."""
    arguments = {
        "name": contract.backbone,
        "options": contract.backbone_options,
        "spatial_dims": contract.spatial_dims,
        "in_channels": contract.in_channels,
    }
    return call("build", arguments)


def code(contract: Contract) -> str:
    """The lines that make the network and load the weights."""
    return python("from medssl.nn.backbone import build", f"model = {network(contract)}", "model.safetensors")
