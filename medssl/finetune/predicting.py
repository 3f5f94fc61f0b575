"""A fine-tuned model opened again, and new images held against what it learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medssl.artefacts.checks import AGAIN
from medssl.artefacts.fits import MODEL_FORMAT
from medssl.artefacts.volumes import read_volumes
from medssl.core import plugins
from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.core.files import read_json
from medssl.core.plugins import Plugin
from medssl.finetune.labelled_data import channels_sentence
from medssl.finetune.lifting import cuts_slices
from medssl.finetune.starting import BUILDS
from medssl.finetune.task import NetworkInput, Source, Task
from medssl.nn.backbone import build
from medssl.nn.device import device
from medssl.nn.weights import load_encoder


@dataclass(frozen=True)
class Model:
    """A fine-tuned network with its task and the contract of the images that it understands."""

    contract: dict[str, Any]
    plugin: Plugin
    task: Task
    network: torch.nn.Module
    device: torch.device

    @classmethod
    def open(cls, folder: Path) -> Model:
        """The model of a folder `5_finetune/<task>/models/<start>`, on the first device.

        Raises:
            StudyError: there is no model of medssl.
        """
        contract = contract_of(folder)
        plugin = plugins.find("task", contract["task"])
        task: Task = plugin.load()(**contract["options"])
        network = task.network(build(*(contract[name] for name in BUILDS)), contract)
        load_encoder(folder / "model.safetensors", network)
        place = device()
        return cls(contract, plugin, task, network.to(place).eval(), place)

    @property
    def expected(self) -> NetworkInput:
        """What images must be like."""
        rank, channels = self.contract["spatial_dims"], self.contract["in_channels"]
        return NetworkInput(rank, channels, tuple(self.contract["input_size"]), cuts_slices(self.contract))

    def check(self, source: Source) -> None:
        """Refuse prepared images that have other channels or windows than the model learnt from.

        Raises:
            StudyError: they have.
        """
        window, channels = self.contract["window"], self.contract["in_channels"]
        for volume in read_volumes(source.volumes):
            if volume.num_channels != channels:
                raise StudyError(channels_sentence(source.name, volume.num_channels, channels))
            if not window["differs_by_volume"] and (list(volume.low), list(volume.high)) != (window["low"], window["high"]):
                raise StudyError(
                    f"{volume.volume_id} was prepared with the window {list(volume.low)} to {list(volume.high)}, the model "
                    f"learnt from {window['low']} to {window['high']}. Prepare the source as the model's contract.json says."
                )


def contract_of(folder: Path) -> dict[str, Any]:
    """The contract of a fine-tuned model.

    Raises:
        StudyError: there is none, or it is an encoder's.
        CorruptArtefactError: it is damaged.
    """
    if not (folder / "contract.json").is_file():
        raise StudyError(
            f"{folder} holds no contract.json: name the folder of a fine-tuned model, 5_finetune/<task>/models/<start>."
        )
    try:
        contract = dict(read_json(folder / "contract.json"))
    except (ValueError, TypeError):
        raise CorruptArtefactError(f"{folder / 'contract.json'} is damaged: it is not a JSON object. {AGAIN}") from None
    if contract.get("format") != MODEL_FORMAT:
        raise StudyError(
            f"{folder} is {contract.get('format')!r}, expected {MODEL_FORMAT!r}: an encoder alone predicts nothing. Fine-tune it."
        )
    return contract
