"""What adapters share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from medssl.artefacts.encoder import Contract
from medssl.core import plugins
from medssl.core.errors import StudyError


def require(contract: Contract, library: str) -> None:
    """Refuse an encoder that the library has no network for; backbones declare what exists (`LIBRARIES`).

    Raises:
        StudyError: with what the encoder is and what the library takes.
    """
    known = {plugin.name: plugin.constant("LIBRARIES", default={}).get(library) for plugin in plugins.all_of("backbone")}
    takes = {name: wanted for name, wanted in known.items() if wanted is not None}
    wanted = takes.get(contract.backbone)
    found = {"spatial_dims": contract.spatial_dims} | contract.backbone_options
    wrong = [f"backbone {contract.backbone!r}"] if wanted is None else _differences(found, wanted)
    if wrong:
        asked = "".join(f", {name} {value!r}" for name, value in (wanted or {}).items())
        raise StudyError(
            f"{library} has no network for this encoder ({', '.join(wrong)}); it takes {', '.join(takes)}"
            + (f" (of {contract.backbone}{asked})" if asked else "")
            + ". Choose another adapter, or use encoder.safetensors as it is."
        )


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    return [f"{name} {found[name]!r}" for name, value in wanted.items() if plain(found.get(name, value)) != value]


def spread_over_rgb(tensors: dict[str, Tensor], stem: str) -> dict[str, Tensor]:
    """A one-channel stem as a three-channel one that gives the same maps for three equal channels."""
    weight = tensors[stem]
    return tensors | {stem: weight.repeat(1, 3, *[1] * (weight.ndim - 2)) / 3} if weight.shape[1] == 1 else tensors


def python(imports: str, network: str, weights: str, *, missing: str = "") -> str:
    """Lines of Python that make a network and load all weights of a file into it.

    Args:
        imports, network: lines; the latter make `model`.
        missing: what of the network the file does not hold, in words; empty where it holds all.
    """
    load = f'model.load_state_dict(load_file("{weights}"))'
    if missing:
        load = (
            f'found = model.load_state_dict(load_file("{weights}"), strict=False)  # {missing}: not in the file, random\n'
            "assert not found.unexpected_keys"
        )
    return f"{imports}\nfrom safetensors.torch import load_file\n\n{network}\n{load}\n"
