"""The memory order of weights and images: channels last if convolutions are faster that way."""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""by the rank of a tensor"""
NORMS_PER_IMAGE = (nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm)


def lay_out(network: Network, device: torch.device, *, channels_last: bool = True) -> Network:
    """Move a network to its device and each of its children into the fastest memory order.

    On a GPU that is channels last. On a CPU it is too in 2-D (a U-Net over ResNet-18 takes 0.6 of the time), unless norms over
    single images copy the maps back and forth (nnU-Net's encoder would take 1.2 of the time). In 3-D it is not (ResNet-18: 1.4).

    channels_last: False keeps the order.
    """
    network.to(device)
    if not channels_last:
        return network
    for part in network.children() if hasattr(network, "backbone") else [network]:
        rank = max((p.ndim for p in part.parameters() if p.ndim in CHANNELS_LAST), default=0)
        if rank and not (device.type == "cpu" and (rank == 5 or _is_slowed(part))):
            part.to(memory_format=CHANNELS_LAST[rank])  # type: ignore[call-overload]
    return network


def _is_slowed(part: nn.Module) -> bool:
    """Whether channels last slows it on a CPU; a head of one convolution takes maps in any order."""
    return isinstance(part, (nn.Conv2d, nn.Conv3d)) or any(isinstance(module, NORMS_PER_IMAGE) for module in part.modules())


def layout_of(network: nn.Module, rank: int) -> torch.memory_format:
    """The memory order for images of a rank (4 or 5) in a network: that of its convolutions' weights."""
    layout = CHANNELS_LAST[rank]
    for parameter in network.parameters():
        if parameter.ndim == rank and parameter.is_contiguous(memory_format=layout) and not parameter.is_contiguous():
            return layout
    return torch.contiguous_format


def laid_out(images: Float[Tensor, "n c *size"], network: nn.Module) -> Float[Tensor, "n c *size"]:
    """Images in the memory order of a network's weights."""
    return images.contiguous(memory_format=layout_of(network, images.ndim))
