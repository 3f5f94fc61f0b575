"""Low-rank adapters of attention: a frozen matrix plus the product of two narrow ones, which is added to it at the end.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, §4.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from medssl.core.errors import StudyError
from medssl.nn.transformer import Attention, NormedAttention

ATTENTIONS = (Attention, NormedAttention)
"""The layers that have a matrix `qkv` of queries, keys and values."""


class LowRank(nn.Module):
    """Adds `alpha / rank` · up · down to the rows of queries and values of a matrix that makes queries, keys and values.

    `up` starts at zero, so that the matrix starts unchanged.
    """

    def __init__(self, width: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.factor = alpha / rank
        self.down = nn.Parameter(torch.empty(2, rank, width).uniform_(-(width**-0.5), width**-0.5))
        self.up = nn.Parameter(torch.zeros(2, width, rank))

    def forward(self, matrix: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """The adapted matrix."""
        queries, values = self.factor * (self.up @ self.down)
        return matrix + torch.cat([queries, torch.zeros_like(queries), values])


def add_adapters(network: nn.Module, rank: int, alpha: float) -> list[nn.Parameter]:
    """Put an adapter on every attention of a network, in place; returns the adapters' parameters.

    Raises:
        StudyError: the network has no attention, or the rank is not below its width.
    """
    layers = [module.qkv for module in network.modules() if isinstance(module, ATTENTIONS)]
    if not layers:
        raise StudyError(
            f"mode lora adapts the matrices of attention, and {type(network).__name__} has none. Take another mode, such as full."
        )
    found: list[nn.Parameter] = []
    for layer in layers:
        if rank >= layer.in_features:
            raise StudyError(
                f"lora_rank {rank} is not below the network's width, {layer.in_features}. Lower it: 4 to 16 is usual."
            )
        adapter = LowRank(layer.in_features, rank, alpha).to(layer.weight)
        parametrize.register_parametrization(layer, "weight", adapter)
        found += adapter.parameters()
    return found


def merge_adapters(network: nn.Module) -> None:
    """Add every adapter to its matrix, in place: the network has its own tensors and names again, and the same outputs."""
    for module in network.modules():
        if isinstance(module, ATTENTIONS) and parametrize.is_parametrized(module.qkv, "weight"):
            parametrize.remove_parametrizations(module.qkv, "weight", leave_parametrized=True)
