"""Gaussian blur of many images, each with its own width: weights are computed once, images come a few at a time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

STRIP = 32
"""Pixels along an axis that one product blurs."""
NEGLIGIBLE = 1e-30
"""Weights below this are set to zero: below 1e-38 a processor takes many times as long for each product."""


class Blur:
    """Blurs images of one size.

    Args:
        sigma_frac: the standard deviation for each row of images, as a share of the side; 0 leaves an image unchanged.
        reach_frac: radius of the kernel, as a share of the side.
    """

    def __init__(self, sigma_frac: Float[Tensor, "m"], reach_frac: float, size: tuple[int, ...]) -> None:
        self._strips = [_strips(sigma_frac * side, max(1, math.ceil(reach_frac * side)), side) for side in size]

    def __call__(self, images: Float[Tensor, "k c *size"], rows: slice) -> Float[Tensor, "k c *size"]:
        """These `rows` of all images, blurred."""
        for dim, strips in enumerate(self._strips):
            lines = images.reshape(len(images), math.prod(images.shape[1 : 2 + dim]), images.shape[2 + dim], -1)
            blurred = torch.empty_like(lines)
            for start, stop, first, last, all_bands in strips:
                bands, source = all_bands[rows], lines[:, :, first:last]
                if lines.shape[3] == 1:
                    torch.bmm(source[..., 0], bands.mT, out=blurred[:, :, start:stop, 0])
                elif lines.shape[1] == 1:
                    torch.bmm(bands, source[:, 0], out=blurred[:, 0, start:stop])
                else:
                    blurred[:, :, start:stop] = bands[:, None] @ source
            images = blurred.view(images.shape)
        return images


def _strips(sigma: Tensor, radius: int, side: int) -> list[tuple[int, int, int, int, Tensor]]:
    """Strips of an axis: bands `(m, …)` compute the pixels `start` to `stop` from the pixels `first` to `last`.

    On a CPU torch's depth-wise convolution of so few groups took 5 times as long, and one matrix for the axis twice as long.
    """
    wide = STRIP + 2 * radius
    away = torch.arange(-radius, radius + 1, device=sigma.device, dtype=torch.float32)
    kernel = torch.exp(-(away**2) / (2 * sigma.clamp_min(1e-3)[:, None] ** 2))
    kernel = torch.where(kernel < NEGLIGIBLE, 0.0, kernel / kernel.sum(1, keepdim=True))
    # Row i of a band is the kernel shifted by i: rows with one number more than `wide`, read as if they had `wide`.
    moved = F.pad(kernel, (0, STRIP)).repeat(1, STRIP)[:, : STRIP * wide].view(-1, STRIP, wide)
    strips = []
    for start in range(0, side, STRIP):
        stop = min(start + STRIP, side)
        first, last = max(start - radius, 0), min(stop + radius, side)
        bands = moved[:, : stop - start, first - start + radius : last - start + radius]
        if last - first < stop - start + 2 * radius:
            bands = bands / bands.sum(2, keepdim=True)  # at an edge, normalise by the part of the kernel inside the image
        strips.append((start, stop, first, last, bands))
    return strips
