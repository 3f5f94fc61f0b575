"""From the pre-trained network to the one that a task needs: reuse of a run's parts, inflation of 2-D kernels.

No objective or option of one is named here. The contract of a run declares how its parts are reused (`artefacts/encoder.py`),
and a wrapping backbone how it wraps a run without the part (`WITHOUT_PART` of its file).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medssl.artefacts.encoder import ENCODER, OWN, Network, Part, taken_up
from medssl.artefacts.encoder import lifted as around
from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.core.files import canonical_json
from medssl.core.options import choice_of
from medssl.finetune.options import INFLATED, no_inflation, wrapper_of
from medssl.nn.weights import converted, difference, load_encoder, read_tensors


@dataclass(frozen=True)
class Lift:
    """How the networks of a task are built from the pre-trained ones; the same for every starting point, including scratch.

    Args:
        word: `encoder` of `FinetuneOptions`.
        default: how a start without a part for the word is used.
        by_run: by run, how its parts are used; only runs that declare some.
    """

    word: str
    default: Part
    by_run: Mapping[str, Part]

    @classmethod
    def of(cls, word: str, contracts: Mapping[str, Mapping[str, Any]]) -> Lift:
        """The lift of a task whose runs have these contracts. A wrapping backbone takes the options of the runs' parts.

        Raises:
            StudyError: one network cannot combine their parts.
        """
        found = {run: taken_up(declared_parts(contract), word) for run, contract in contracts.items()}
        by_run = {run: part for run, part in found.items() if part is not None}
        if (wrapper := wrapper_of(word)) is None:
            return cls(word, Part(encoder=word, places={ENCODER: ""}), by_run if word == OWN else {})
        options = _common(by_run, word)
        default = _default_part(word, wrapper).model_copy(update={"options": options})
        return cls(word, default, {run: part.model_copy(update={"options": options}) for run, part in by_run.items()})

    def part_of(self, start: str) -> Part:
        """How a starting point is used."""
        return self.by_run.get(start, self.default)

    def is_drawn(self, start: str) -> bool:
        """Whether part of the network around a starting point starts at random, as its run has no weights for it."""
        return bool(self.default.backbone) and start not in self.by_run

    @property
    def deepens(self) -> bool:
        """Whether it turns a 2-D network into a 3-D one."""
        return self.word == INFLATED or self.default.spatial_dims == 3

    def contract(self, start: str, contract: dict[str, Any]) -> dict[str, Any]:
        """The contract of the fine-tuned network, from that of the pre-trained one.

        Raises:
            StudyError: the network is already 3-D, or cannot be inflated.
        """
        if self.word == INFLATED:
            if contract["spatial_dims"] == 3:
                raise StudyError(
                    f"encoder: {INFLATED} makes a 3-D network of a 2-D one, and {contract['backbone']!r} is 3-D already. "
                    f"Set encoder: {OWN}, or start from 2-D runs."
                )
            flat = choice_of("backbone", {contract["backbone"]: contract["backbone_options"]})
            if why := no_inflation(flat):
                raise StudyError(f"encoder: {INFLATED}: {why}. Set encoder: volume, or start from 3-D runs.")
            return contract | {"spatial_dims": 3, "input_size": [*contract["input_size"], contract["input_size"][-1]]}
        part = self.part_of(start)
        if not part.backbone:
            return contract
        network = around(Network.of(contract, start), part)
        return contract | network.plain() | {"backbone_options": completed(network.backbone, network.backbone_options)}

    def load(self, network: nn.Module, start: str, weights: Path, parts: Path | None, *, foreign: bool = False) -> None:
        """Load a start's weights, and its run's parts, into the network of the lifted contract.

        foreign: the weights are not from a run of the study, and may be another library's (`nn.weights.adapted`).

        Raises:
            StudyError: some tensors of the files do not fit, or the run left no part where it needs one.
        """
        if self.word == INFLATED:
            flat, changes = converted(read_tensors(weights), network, weights, foreign=foreign)
            if changes:
                print(f"{weights.name}: {'; '.join(changes)}")
            network.load_state_dict(inflated(flat, network.state_dict(), weights.name))
            return
        part = self.part_of(start)
        if not part.backbone:
            load_encoder(weights, network, foreign=foreign)
            return
        if part.required and start not in self.by_run:
            raise StudyError(
                f"{start} left nothing that encoder: {self.word} could take up. Start from runs whose objective leaves it, or "
                f"set encoder: {OWN}."
            )
        for name, place in part.places.items():
            if name == ENCODER:
                load_encoder(weights, network.get_submodule(place), foreign=foreign)
            else:
                _take_up(network.get_submodule(place), part_of(parts, name), weights, name)

    def files_used(self, start: str, continues: Iterable[str]) -> tuple[bool, bool]:
        """Whether the network uses tensors of a start's encoder, and of its parts. `continues`: see `continued`."""
        part = self.part_of(start)
        own = not part.backbone
        beside = any(name != ENCODER for name in part.places) if not own else bool(self._continued(start, continues))
        return own or ENCODER in part.places, beside

    def continued(self, start: str, parts: Path | None, continues: Iterable[str]) -> dict[str, Tensor]:
        """Tensors `<part of the task's network>.<name>` that a run trained beside its encoder; none if the encoder is lifted.

        continues: the parts of the task's network that start from them.
        """
        found: dict[str, Tensor] = {}
        for name, place in self._continued(start, continues).items():
            found |= {f"{place}.{key}": tensor for key, tensor in part_of(parts, name).items()}
        return found

    def _continued(self, start: str, continues: Iterable[str]) -> dict[str, str]:
        if self.word != OWN or start not in self.by_run:
            return {}
        wanted = set(continues)
        return {name: place for name, place in self.by_run[start].places.items() if name != ENCODER and place in wanted}


def declared_parts(contract: Mapping[str, Any]) -> dict[str, Part]:
    """The parts that a contract declares; empty for older runs."""
    return {name: Part.check(part, f"contract.json, parts.{name}") for name, part in contract.get("parts", {}).items()}


def completed(backbone: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a backbone and of those inside it with all their defaults, as in JSON."""
    plugin = plugins.find("backbone", backbone)
    found = plugin.check(dict(options))
    for option, kind in plugin.constant("USES", default={}).items():
        if kind == "backbone" and found.get(option) is not None:
            found[f"{option}_options"] = completed(found[option], found.get(f"{option}_options") or {})
    return dict(json.loads(canonical_json(found)))


def cuts_slices(contract: Mapping[str, Any]) -> bool:
    """Whether a network sees a volume as slices along the last axis: it is 2-D, or contains one that is."""
    default = plugins.find("backbone", contract["backbone"]).constant("WITHOUT_PART", default={})
    return contract["spatial_dims"] == 2 or default.get("spatial_dims") == 3


def part_of(parts: Path | None, name: str) -> dict[str, Tensor]:
    """The tensors of one part of `parts.safetensors`, without its name in front."""
    found = read_tensors(parts) if parts is not None else {}
    return {key.removeprefix(f"{name}."): tensor for key, tensor in found.items() if key.startswith(f"{name}.")}


def inflated(flat: dict[str, Tensor], solid: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """2-D kernels repeated along the third axis and divided by its length, so that a volume of equal slices gives a slice's
    output. `where`: the file of the 2-D ones.

    Raises:
        StudyError: a tensor of one has no partner in the other.

    Source: Carreira and Zisserman, "Quo vadis, action recognition?", arXiv 1705.07750, §2.4.
    """
    found = {}
    for name, tensor in flat.items():
        wanted = solid.get(name)
        if wanted is not None and wanted.ndim == tensor.ndim + 1:
            tensor = (tensor[..., None] / wanted.shape[-1]).expand(*tensor.shape, wanted.shape[-1]).clone()
        found[name] = tensor
    different = [name for name in solid if name not in found or found[name].shape != solid[name].shape]
    different += sorted(found.keys() - solid.keys())
    if different:
        name = different[0]
        raise StudyError(
            f"{where} cannot be inflated: {name!r} ({difference(name, flat, solid)}, which is 3-D). Use the backbone and options "
            f"that the file was made with, or set encoder: {OWN}."
        )
    return {name: torch.as_tensor(found[name]) for name in solid}


def _default_part(word: str, wrapper: str) -> Part:
    """How a wrapping backbone uses a start without a part for its word."""
    plugin = plugins.find("backbone", wrapper)
    inner = next(option for option, kind in plugin.constant("USES").items() if kind == "backbone")
    fields = {"encoder": word, "backbone": wrapper, "inner": inner, "places": {}} | plugin.constant("WITHOUT_PART", default={})
    return Part.check(fields, f"WITHOUT_PART of backbone {wrapper!r}")


def _common(by_run: Mapping[str, Part], word: str) -> dict[str, Any]:
    """The options that the parts of all runs share; empty if no run has a part.

    Raises:
        StudyError: two differ, so that one network cannot use both.
    """
    options = [part.options for part in by_run.values()]
    for other in options[1:]:
        different = sorted(name for name in other.keys() | options[0].keys() if other.get(name) != options[0].get(name))
        if different:
            name = different[0]
            raise StudyError(
                f"encoder: {word}: the runs that a task starts from have parts of different {name} "
                f"({options[0].get(name)} and {other.get(name)}), and all starts have one network. Set inits to runs that are "
                "alike, or make a task for each."
            )
    return dict(options[0]) if options else {}


def _take_up(network: nn.Module, part: dict[str, Tensor], weights: Path, name: str) -> None:
    """Load a part whose tensors must all fit.

    Raises:
        StudyError: one is missing, left over or of another shape.
    """
    wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    left = {key: tuple(tensor.shape) for key, tensor in part.items()}
    different = sorted(key for key in wanted.keys() | left.keys() if wanted.get(key) != left.get(key))
    if different:
        key = different[0]
        raise StudyError(
            f"{weights.parent.name} left a {name} that does not fit the network: {key} is {left.get(key, 'missing')}, expected "
            f"{wanted.get(key, 'none')}. Start from runs whose backbone and options are alike, or make a task for each."
        )
    network.load_state_dict(part)
