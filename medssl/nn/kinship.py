"""How alike two samples are by what is known of them: kernels of place, label and records, between 0 and 1.

Sources: kernels of a record, Dufumier et al., arXiv 2106.08808 (y-aware contrast); of the place in a volume, Wu et al.,
arXiv 2206.03281 (neighbours in context).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from medssl.nn.loading import Samples


@dataclass(frozen=True)
class Kernel:
    """One property of samples.

    Args:
        values: of each sample; NaN where it is unknown.
        width: standard deviation of a Gaussian in the unit of the values; 0: only equal values are alike.
        within: whether samples of different volumes are never alike.
    """

    values: Float64[np.ndarray, "n"]
    width: float
    within: bool = False


class Kinship(nn.Module):
    """The product of kernels. An unknown value makes a sample like no other."""

    volume: Int64[Tensor, "samples"]
    values: Float[Tensor, "kernels samples"]

    def __init__(self, samples: Samples, kernels: Sequence[Kernel]) -> None:
        super().__init__()
        self.widths = tuple(kernel.width for kernel in kernels)
        self.within = any(kernel.within for kernel in kernels)
        values = np.stack([kernel.values for kernel in kernels]) if kernels else np.zeros((0, len(samples)))
        # of no study: the samples and their records say it again after a restart
        self.register_buffer("volume", torch.from_numpy(samples.volume), persistent=False)
        self.register_buffer("values", torch.from_numpy(values.astype(np.float64)), persistent=False)

    def forward(self, rows: Int64[Tensor, "n"], others: Int64[Tensor, "m"]) -> Float64[Tensor, "n m"]:
        """The likeness of samples to others, both by row; without kernels it is 0."""
        if not self.widths:
            return torch.zeros(len(rows), len(others), dtype=torch.float64, device=rows.device)
        alike = torch.ones(len(rows), len(others), dtype=torch.float64, device=rows.device)
        if self.within:
            alike = alike * (self.volume[rows][:, None] == self.volume[others][None])
        for values, width in zip(self.values, self.widths, strict=True):
            distance = values[rows][:, None] - values[others][None]
            near = (distance == 0).double() if width == 0 else torch.exp(-distance.square() / (2 * width**2))
            alike = alike * torch.nan_to_num(near)
        return alike


def of_place(samples: Samples) -> Float64[np.ndarray, "n"]:
    """The place of each slice between the first and the last kept one of its volume, 0…1; NaN for images and for a single
    slice.
    """
    position = samples.position_mm.astype(np.float64)
    low, high = np.full(len(samples.volumes), np.inf), np.full(len(samples.volumes), -np.inf)
    np.minimum.at(low, samples.volume, np.where(np.isnan(position), np.inf, position))
    np.maximum.at(high, samples.volume, np.where(np.isnan(position), -np.inf, position))
    with np.errstate(invalid="ignore", divide="ignore"):
        place = (position - low[samples.volume]) / (high - low)[samples.volume]
    return np.where(np.isfinite(place), place, np.nan)


def of_label(samples: Samples) -> Float64[np.ndarray, "n"]:
    """The number of each sample's label; NaN where it has none."""
    names = {name: number for number, name in enumerate(sorted({label for label in samples.label if label is not None}))}
    return np.array([np.nan if label is None else names[label] for label in samples.label], dtype=np.float64)
