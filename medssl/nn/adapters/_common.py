"""What adapters share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from medssl.artefacts.encoder import Contract
from medssl.core.errors import StudyError


def require(contract: Contract, library: str, *, backbones: tuple[str, ...], spatial_dims: int = 0, **options: Any) -> None:
    """Refuse an encoder that the library has no network for.

    Raises:
        StudyError: with what the encoder is and what the library takes.
    """
    wrong = [f"{n} {contract.backbone_options[n]!r}" for n, v in options.items() if contract.backbone_options.get(n, v) != v]
    if contract.backbone not in backbones:
        wrong.append(f"backbone {contract.backbone!r}")
    if spatial_dims and contract.spatial_dims != spatial_dims:
        wrong.append(f"spatial_dims {contract.spatial_dims}")
    if wrong:
        raise StudyError(
            f"{library} has no network for this encoder ({', '.join(wrong)}); it takes {', '.join(backbones)}"
            + (f" at spatial_dims {spatial_dims}" if spatial_dims else "")
            + ". Choose another adapter, or use encoder.safetensors as it is."
        )


def spread_over_rgb(tensors: dict[str, Tensor], stem: str) -> dict[str, Tensor]:
    """A one-channel stem as a three-channel one that gives the same maps for three equal channels."""
    weight = tensors[stem]
    return tensors | {stem: weight.repeat(1, 3, *[1] * (weight.ndim - 2)) / 3} if weight.shape[1] == 1 else tensors
