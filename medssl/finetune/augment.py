"""Small changes that keep the label, for a whole batch at once: shift, turn, scale, brightness, contrast.

Mirrors are off unless asked for: the left kidney's mirror image is the right kidney.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.rng import key, uniforms

MAX_TURN_DEG = 15.0
MAX_SHIFT_FRAC = 0.08
MAX_LOG_SCALE = 0.14
MAX_BRIGHTNESS = 0.1
MAX_LOG_CONTRAST = 0.18
DRAWS = 16


def draws(seed: int, step: int, count: int) -> Tensor:
    """Uniform numbers `(count, 16)` in [0, 1), a function of seed and step."""
    import numpy as np

    return torch.from_numpy(uniforms(key(seed, "augment", step), np.arange(count, dtype=np.uint64), DRAWS)).float()


def augment(images: Tensor, draw: Tensor, *, flips: bool = False) -> Tensor:
    """Each image changed on its own draw; borders repeat, values stay within [0, 1].

    Args:
        images: `(n, c, h, w)` or `(n, c, h, w, d)` in [0, 1].
        draw: `(n, 16)` uniform numbers, see `draws`.
        flips: mirror each axis with probability ½.
    """
    draw = draw.to(images.device)
    moved = F.grid_sample(
        images, sampling_grid(tuple(images.shape[2:]), draw, flips=flips), padding_mode="border", align_corners=False
    )
    return intensity(moved, draw)


def intensity(images: Tensor, draw: Tensor) -> Tensor:
    """Brightness and contrast about the image's mean."""
    ones = (1,) * (images.ndim - 1)
    centred = 2 * draw.to(images.device) - 1
    contrast = torch.exp(MAX_LOG_CONTRAST * centred[:, 8]).view(-1, *ones)
    brightness = (MAX_BRIGHTNESS * centred[:, 9]).view(-1, *ones)
    mean = images.mean(dim=tuple(range(1, images.ndim)), keepdim=True)
    return ((images - mean) * contrast + mean + brightness).clamp(0, 1)


def margins(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Voxels beyond each side of a patch of `shape` that a change may bring into it."""
    angle, scale = math.radians(MAX_TURN_DEG), math.exp(MAX_LOG_SCALE)
    turned = [float(side) for side in shape]
    turned[-2:] = [side * math.cos(angle) + other * math.sin(angle) for side, other in (shape[-2:], (shape[-1], shape[-2]))]
    return tuple(
        math.ceil((scale * whole - side) / 2 + MAX_SHIFT_FRAC * side) + 1 for whole, side in zip(turned, shape, strict=True)
    )


def sampling_grid(shape: tuple[int, ...], draw: Tensor, *, flips: bool = False, within: tuple[int, ...] | None = None) -> Tensor:
    """Where each output position reads, `(n, *shape, rank)` in grid_sample's units (−1 … 1, last axis first).

    In 3-D the turn is in the plane of the last two axes turned about the first; shift and scale act on all axes. `within`: the
    shape of what is read, with the output in its middle; where it is left out, the output's own.
    """
    rank, count = len(shape), draw.shape[0]
    centred = 2 * draw - 1
    scale = torch.exp(MAX_LOG_SCALE * centred[:, 0])
    angle = math.radians(MAX_TURN_DEG) * centred[:, 1]
    matrix = torch.zeros(count, rank, rank, device=draw.device)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    # a turn in millimetres, not in units of the image's sides
    ratio = shape[-2] / shape[-1]
    matrix[:, 0, 0], matrix[:, 0, 1] = cosine, -sine * ratio
    matrix[:, 1, 0], matrix[:, 1, 1] = sine / ratio, cosine
    if rank == 3:
        matrix[:, 2, 2] = scale
    if flips:
        matrix = matrix * torch.where(draw[:, 5 : 5 + rank] < 0.5, 1.0, -1.0)[:, None, :]
    shift = 2 * MAX_SHIFT_FRAC * centred[:, 2 : 2 + rank]
    axes = [(2 * torch.arange(size, device=draw.device) + 1) / size - 1 for size in shape]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1).reshape(-1, rank)
    moved = positions @ matrix.transpose(1, 2) + shift[:, None, :]
    if within is not None:
        moved = moved * torch.tensor([side / whole for side, whole in zip(shape, within, strict=True)][::-1], device=draw.device)
    return moved.reshape(count, *shape, rank)
