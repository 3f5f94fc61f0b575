"""A small denoising auto-encoder whose pooled code describes an image: G-SimCLR's first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from medssl.core.rng import key
from medssl.nn.gather import from_first
from medssl.nn.pair_mean import PairMean3d

WIDTHS = (32, 64, 128)


class Denoiser(nn.Module):
    """Three levels of convolution, norm, ReLU and pooling, and their mirror image.

    Source: Chakraborty et al., arXiv 2009.12007, §3.1 (widths 32, 64, 128).
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if spatial_dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for before, after in zip((channels, *WIDTHS[:-1]), WIDTHS, strict=True):
            halved = nn.AvgPool2d(2, ceil_mode=True) if spatial_dims == 2 else PairMean3d(keep_rest=True)
            down += [convolution(before, after, 3, padding=1), norm(after), nn.ReLU(inplace=True), halved]
            up = [
                nn.Upsample(scale_factor=2),
                convolution(after, before if before != channels else WIDTHS[0], 3, padding=1),
                norm(before if before != channels else WIDTHS[0]),
                nn.ReLU(inplace=True),
                *up,
            ]
        self.down, self.up = nn.Sequential(*down), nn.Sequential(*up, convolution(WIDTHS[0], channels, 3, padding=1))

    def code(self, x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n d"]:
        """Images `(n, c, *size)` to codes `(n, 128)`."""
        return self.down(x).flatten(2).mean(2)

    def forward(self, x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n c *size"]:
        """Images to images of the same size."""
        restored = self.up(self.down(x))
        return restored[(..., *(slice(0, s) for s in x.shape[2:]))]


def fit_denoiser(
    images: Callable[[int], Iterator[tuple[Float[Tensor, "n c *size"], Int64[np.ndarray, "n"]]]],
    count: int,
    *,
    seed: int,
    device: Any,
    epochs: int,
    patience: int,
    noise: float,
    lr: float,
) -> Float[Tensor, "{count} d"]:
    """Train on `images(epoch)` until the loss has not fallen for `patience` epochs; codes of all samples, `(count, 128)`."""
    torch.manual_seed(key(seed, "denoiser") >> 1)
    first, _ = next(images(0))
    network = Denoiser(first.ndim - 2, first.shape[1]).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    best, waited = float("inf"), 0
    for epoch in range(epochs):
        total = 0.0
        for x, _ in images(epoch):
            loss = (network(x + noise * torch.randn_like(x)) - x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(x)
        total = float(from_first(torch.tensor(total, dtype=torch.float64, device=device)))  # so that all ranks continue, or none
        best, waited = (total, 0) if total < best else (best, waited + 1)
        if waited >= patience:
            break
    network.eval()
    codes = torch.zeros(count, WIDTHS[-1], device=device)
    with torch.no_grad():
        for x, rows in images(0):
            codes[torch.from_numpy(rows).to(device)] = network.code(x)
    return codes
