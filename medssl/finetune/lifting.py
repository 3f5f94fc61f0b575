"""From the network that was pre-trained to the one that a task wants: slices to a volume, flat kernels to solid ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.nn.weights import adapted, load_encoder, read_tensors

VOLUME = "volume_encoder"
"""The part that a run leaves when it has learnt how the slices of a volume belong together."""
CODED = ("common", "salient")
"""The spaces of a run that has learnt two; parts `<space>_code`, and `salient`, the second encoder."""


def lifted(contract: dict[str, Any], encoder: str, contracts: list[dict[str, Any]]) -> dict[str, Any]:
    """The contract of the network that is fine-tuned, of that of the network that was pre-trained.

    `encoder`: see `FinetuneOptions`. The slice transformer has the options that one of `contracts` learnt, for all alike.

    Raises:
        StudyError: a 3-D network cannot be made 3-D; the runs have learnt transformers or codes that are not alike.
    """
    if encoder == "own":
        return contract
    if encoder in CODED:
        inner = {"of": contract["backbone"], "of_options": contract["backbone_options"]}
        width = _common([{"width": o["width"]} for o in map(_learnt, contracts) if "infoless_weight" in o], f"encoder: {encoder}")
        return contract | {"backbone": "bottleneck", "backbone_options": inner | (width or {"width": 32})}
    if contract["spatial_dims"] == 3:
        raise StudyError(
            f"encoder: {encoder} makes a 3-D network of a 2-D one, and {contract['backbone']!r} is 3-D already. "
            "Set encoder: own, or start from 2-D runs."
        )
    solid = contract | {"spatial_dims": 3, "input_size": [*contract["input_size"], contract["input_size"][-1]]}
    if encoder == "inflated":
        return solid
    slices = {"slices": contract["backbone"], "slices_options": contract["backbone_options"]}
    options = plugins.find("backbone", "slicewise").check(slices | _transformer_options(contracts))
    return solid | {"backbone": "slicewise", "backbone_options": options}


def cuts_slices(contract: dict[str, Any]) -> bool:
    """Whether a network sees a volume as slices along the last axis."""
    return contract["spatial_dims"] == 2 or contract["backbone"] == "slicewise"


def load_lifted(network: nn.Module, encoder: str, weights: Path, parts: Path | None, *, foreign: bool = False) -> None:
    """Load an encoder's weights, and what its run left beside it, into the network of the lifted contract.

    foreign: the weights are of no run of the study, and may be those of another library (`nn.weights.adapted`).

    Raises:
        StudyError: not all tensors of the file have found their place.
    """
    if encoder == "own":
        load_encoder(weights, network, foreign=foreign)
    elif encoder == "volume":
        load_encoder(weights, network.get_submodule("slices"), foreign=foreign)
        learnt = part_of(parts, VOLUME)
        if learnt:
            _take_up(network.get_submodule("volume"), learnt, weights, VOLUME)
    elif encoder == "inflated":
        flat, solid = read_tensors(weights), network.state_dict()
        network.load_state_dict(inflated(adapted(flat, solid, weights.name) if foreign else flat, solid))
    else:
        code = part_of(parts, f"{encoder}_code")
        if not code:
            raise StudyError(f"{weights.parent.name} left no {encoder} code: pre-train with sepclr, or set encoder: own.")
        _take_up(network.get_submodule("code"), code, weights, f"{encoder}_code")
        if encoder == "common":
            load_encoder(weights, network.get_submodule("inner"))
        else:
            _take_up(network.get_submodule("inner"), part_of(parts, encoder), weights, encoder)


def _take_up(network: nn.Module, part: dict[str, Tensor], weights: Path, name: str) -> None:
    """Load a part whose tensors all fit.

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


def part_of(parts: Path | None, name: str) -> dict[str, Tensor]:
    """The tensors of one part of `parts.safetensors`, without its name in front."""
    found = read_tensors(parts) if parts is not None else {}
    return {key.removeprefix(f"{name}."): tensor for key, tensor in found.items() if key.startswith(f"{name}.")}


def inflated(flat: dict[str, Tensor], solid: dict[str, Tensor]) -> dict[str, Tensor]:
    """2-D kernels repeated along the third axis and divided by its length, so that a volume of equal slices looks like a slice.

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
        raise StudyError(f"the encoder cannot be inflated: {different[0]!r} differs in 2-D and 3-D. Set encoder: volume or own.")
    return {name: torch.as_tensor(found[name]) for name in solid}


def _transformer_options(contracts: list[dict[str, Any]]) -> dict[str, Any]:
    """The slice transformer's options from the runs that left one; none where no run has."""
    names = ("width", "layers", "feed_forward", "positions")
    with_volumes = [o for o in map(_learnt, contracts) if o.get("volume_weight") or o.get("mask_weight")]
    return _common(
        [{"heads": given["attention_heads"]} | {name: given[name] for name in names} for given in with_volumes], "encoder: volume"
    )


def _learnt(contract: dict[str, Any]) -> dict[str, Any]:
    """The objective's options of a run."""
    options: dict[str, Any] = contract.get("objective_options", {})
    return options


def _common(found: list[dict[str, Any]], of: str) -> dict[str, Any]:
    """The options that all have; none where there are none.

    Raises:
        StudyError: two differ, and one network cannot take up both.
    """
    for other in found[1:]:
        different = [name for name in other if other[name] != found[0][name]]
        if different:
            name = different[0]
            raise StudyError(
                f"{of}: the runs that a task starts from have learnt parts of different {name} ({found[0][name]} and "
                f"{other[name]}), and all starts have one network. Set inits to runs that are alike, or make a task for each."
            )
    return found[0] if found else {}
