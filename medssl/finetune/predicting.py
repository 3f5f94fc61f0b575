"""A reopened fine-tuned model, and the comparison of new images with its training images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medssl.artefacts.checks import AGAIN
from medssl.artefacts.fits import MODEL_FORMAT
from medssl.artefacts.samples import SAMPLES, axes_of
from medssl.artefacts.training_images import TrainingImages, Window, refuse_or_warn
from medssl.artefacts.volumes import read_volumes
from medssl.core import plugins
from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.core.files import read_json
from medssl.core.plugins import Plugin
from medssl.core.receipts import refuse_damaged
from medssl.finetune.gating import add_gates, bottleneck_of
from medssl.finetune.labelled_data import channels_sentence
from medssl.finetune.lifting import cuts_slices
from medssl.finetune.starting import BUILDS
from medssl.finetune.task import NetworkInput, Source, Task
from medssl.nn.backbone import build
from medssl.nn.device import device
from medssl.nn.weights import load_encoder


@dataclass(frozen=True)
class Model:
    """A fine-tuned network with its task and the contract of its input images."""

    contract: dict[str, Any]
    plugin: Plugin
    task: Task
    network: torch.nn.Module
    device: torch.device
    force: bool = False
    """Whether images that differ from the training images are accepted, with a warning."""

    @classmethod
    def open(cls, folder: Path, *, force: bool = False) -> Model:
        """The model of a folder `5_finetune/<task>/models/<start>`, on the first device.

        Raises:
            StudyError: the folder has no model of medssl.
            CorruptArtefactError: it does not match its receipt.
        """
        contract = contract_of(folder)
        refuse_damaged(folder / "model.safetensors")
        plugin = plugins.find("task", contract["task"])
        task: Task = plugin.load()(**contract["options"])
        network = task.network(build(*(contract[name] for name in BUILDS)), contract)
        add_gates(network, bottleneck_of(contract))
        load_encoder(folder / "model.safetensors", network)
        place = device()
        return cls(contract, plugin, task, network.to(place).eval(), place, force)

    @property
    def expected(self) -> NetworkInput:
        """The required form of images."""
        rank, channels = self.contract["spatial_dims"], self.contract["in_channels"]
        return NetworkInput(rank, channels, tuple(self.contract["input_size"]), cuts_slices(self.contract))

    @property
    def window(self) -> Window:
        """Which values are seen as 0 and 1."""
        return Window.check(self.contract["window"])

    def check(self, source: Source) -> None:
        """Compare prepared images with the model's training images: channels, modality, spacing, slice axis, window.

        Raises:
            StudyError: they differ, and `force` is not set; or their channels differ, which no network accepts.
        """
        window, channels = self.window, self.contract["in_channels"]
        volumes = read_volumes(source.volumes)
        for volume in volumes:
            if volume.num_channels != channels:
                raise StudyError(channels_sentence(source.name, volume.num_channels, channels))
        found = [one for volume in volumes if (one := window.difference(volume)) is not None]
        if self.contract.get("learnt"):
            training_images, solid = TrainingImages.check(self.contract["learnt"]), self.contract["spatial_dims"] == 3
            axes = axes_of(SAMPLES.read(source.samples))
            found = training_images.differences(volumes, axes, planes=self.expected.cuts_slices, depth=solid) + found
        if found:
            refuse_or_warn(found, "the model", force=self.force)


def contract_of(folder: Path) -> dict[str, Any]:
    """The contract of a fine-tuned model.

    Raises:
        StudyError: there is none, or it is an encoder's.
        CorruptArtefactError: it is damaged.
    """
    if not (folder / "contract.json").is_file():
        raise StudyError(
            f"{folder} holds no contract.json: name the folder of a fine-tuned model, 5_finetune/<task>/models/<start>. "
            "Modes without a network leave none: nearest neighbours, nearest and aligned class means."
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


def sections_of(contract: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections `ingest` and `prepare` of a study that treat new images like those of a model's source.

    Images of other modalities than the training images are set aside.
    """
    ingest, prepare = dict(contract["ingest"] or {}), dict(contract["prepare"] or {})
    if kept := TrainingImages.check(contract["learnt"]).kept if contract.get("learnt") else []:
        ingest["modality"] = kept
    return ingest, prepare
