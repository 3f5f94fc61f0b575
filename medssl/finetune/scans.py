"""Scans with masks, the places of each class in them, and the agreement of two masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from medssl.artefacts.volumes import Volume
from medssl.core.rng import rng
from medssl.volume.intensity import values_of, windowed

PLACES_PER_CLASS = 4096
"""How many voxels of a class are kept as centres of patches."""


@dataclass(frozen=True)
class Scan:
    """One prepared volume with its stored numbers and mask `(i, j, k)`, mapped from disk.

    2-D networks cut it along the last axis. `affine`: of the grid, 4×4 to RAS+ mm; not the volume's if axes were exchanged.
    `axis`: of the volume, along which its slices are cut.
    """

    volume: Volume
    image: Any
    mask: Any
    affine: np.ndarray
    axis: int = 2

    @property
    def case_id(self) -> str:
        """The volume's id."""
        return self.volume.volume_id

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        i, j, k = self.image.shape
        return i, j, k

    def seen(self, device: torch.device) -> Float32[Tensor, "c i j k"]:
        """The network's input, in [0, 1], one channel per window; only the stored numbers are sent to the device."""
        volume = self.volume
        stored = torch.from_numpy(np.ascontiguousarray(self.image)).to(device).float()
        low, high = (torch.tensor(ends, device=device).view(-1, 1, 1, 1) for ends in (volume.low, volume.high))
        return windowed(values_of(stored, volume.slope, volume.intercept), low, high)

    def outside(self, device: torch.device) -> Float32[Tensor, "c"]:
        """The network's input outside the scan: the low end of its first window."""
        volume = self.volume
        low, high = (torch.tensor(ends, device=device) for ends in (volume.low, volume.high))
        return windowed(low[:1], low, high)

    def with_mask(self, mask: np.ndarray) -> Scan:
        """The same scan with another mask."""
        return replace(self, mask=mask)


@dataclass(frozen=True)
class Places:
    """Voxels of each foreground class of a scan, `(n, 3)`, from which patch centres are drawn."""

    by_class: tuple[np.ndarray, ...]


def places_of(scan: Scan, values: Sequence[int], seed: int) -> Places:
    """Up to 4,096 voxels of each class in the scan."""
    mask = np.asarray(scan.mask)
    found = []
    for value in values:
        flat = np.flatnonzero(mask == value)
        if len(flat):
            if len(flat) > PLACES_PER_CLASS:
                flat = np.sort(rng(seed, "places", scan.case_id, value).choice(flat, PLACES_PER_CLASS, replace=False))
            found.append(np.stack(np.unravel_index(flat, mask.shape), axis=1))
    return Places(tuple(found))


def dice(one: Any, other: Any, value: int) -> float:
    """Dice of a class in two masks, arrays or tensors; NaN if neither has it."""
    a, b = one == value, other == value
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def mean_dice(predicted: Iterable[Any], masks: Iterable[Any], values: Sequence[int]) -> float:
    """Mean over classes of the mean over cases, without cases where both lack the class; NaN without cases."""
    scores = np.array([[dice(p, m, value) for value in values] for p, m in zip(predicted, masks, strict=True)])
    if not scores.size:
        return float("nan")
    per_class = [float(np.nanmean(column)) for column in scores.T if np.isfinite(column).any()]
    return float(np.mean(per_class)) if per_class else float("nan")
