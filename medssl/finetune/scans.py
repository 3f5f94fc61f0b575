"""Scans with masks: windowed patches with enough foreground, planes and whole arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medssl.artefacts.volumes import Volume
from medssl.core.rng import rng

PLACES_PER_CLASS = 4096
"""How many voxels of a class are remembered as centres of patches."""


@dataclass(frozen=True)
class Scan:
    """One prepared volume with its stored numbers and mask `(i, j, k)`, mapped from disk.

    2-D networks cut it along the last axis. `affine`: of the grid, 4×4 to RAS+ mm; not the volume's where axes were exchanged.
    """

    volume: Volume
    image: Any
    mask: Any
    affine: np.ndarray

    @property
    def case_id(self) -> str:
        """The volume's."""
        return self.volume.volume_id

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        i, j, k = self.image.shape
        return i, j, k

    def seen(self, where: tuple[slice, ...]) -> np.ndarray:
        """A part as the network sees it, float32 `(c, i, j, k)` in [0, 1], one channel per window."""
        return self.volume.seen(self.image[where])

    def with_mask(self, mask: np.ndarray) -> Scan:
        """The same scan with another mask."""
        return replace(self, mask=mask)


@dataclass(frozen=True)
class Places:
    """Voxels of each foreground class of a scan, `(n, 3)`, from which patch centres are drawn."""

    by_class: tuple[np.ndarray, ...]


def places_of(scan: Scan, values: Sequence[int], seed: int) -> Places:
    """Up to 4,096 voxels of each class that the scan has."""
    mask = np.asarray(scan.mask)
    found = []
    for value in values:
        flat = np.flatnonzero(mask == value)
        if len(flat):
            if len(flat) > PLACES_PER_CLASS:
                flat = np.sort(rng(seed, "places", scan.case_id, value).choice(flat, PLACES_PER_CLASS, replace=False))
            found.append(np.stack(np.unravel_index(flat, mask.shape), axis=1))
    return Places(tuple(found))


def patch_at(
    scan: Scan, centre: np.ndarray, size: tuple[int, int, int], margin: tuple[int, int, int] = (0, 0, 0)
) -> tuple[np.ndarray, np.ndarray]:
    """Image `(c, *size)` and mask values `(*size)` around a voxel; moved inside the scan where it is large enough.

    margin: what is read beyond each side of the patch, which is then larger by twice that. What lies outside the scan is 0 in
    both: the low end of the windows, and background.
    """
    whole = tuple(side + 2 * more for side, more in zip(size, margin, strict=True))
    image = np.zeros((scan.volume.num_channels, *whole), dtype=np.float32)
    mask = np.zeros(whole, dtype=np.int64)
    source, target = [], []
    for have, want, more, middle in zip(scan.shape, size, margin, centre, strict=True):
        start = int(np.clip(middle - want // 2, 0, have - want)) if have >= want else -((want - have) // 2)
        start -= more
        first, last = max(start, 0), min(start + want + 2 * more, have)
        source.append(slice(first, last))
        target.append(slice(first - start, last - start))
    image[(slice(None), *target)] = scan.seen(tuple(source))
    mask[tuple(target)] = np.asarray(scan.mask[tuple(source)])
    return image, mask


def batch_of(
    scans: Sequence[Scan],
    places: Sequence[Places],
    size: tuple[int, int, int],
    count: int,
    foreground_frac: float,
    seed: int,
    step: int,
    margin: tuple[int, int, int] = (0, 0, 0),
) -> tuple[np.ndarray, np.ndarray]:
    """`count` patches of random scans, images `(count, c, *size)` and masks `(count, *size)`, a function of seed and step.

    With a `margin` they are larger by twice that, round the same places.

    A share of `foreground_frac` (rounded up) is centred near a voxel of a class drawn among those the scan has, so that a
    small class is met as often as a large one.
    """
    generator = rng(seed, "patches", step)
    images, masks = [], []
    num_foreground = int(np.ceil(foreground_frac * count))
    for number in range(count):
        chosen = int(generator.integers(len(scans)))
        scan, near = scans[chosen], places[chosen].by_class
        centre = np.array([generator.integers(extent) for extent in scan.shape])
        if number < num_foreground and near:
            voxels = near[int(generator.integers(len(near)))]
            jitter = np.array([generator.integers(-(side // 4), side // 4 + 1) for side in size])
            centre = voxels[int(generator.integers(len(voxels)))] + jitter * (np.array(size) > 1)
            centre = np.clip(centre, 0, np.array(scan.shape) - 1)
        image, mask = patch_at(scan, centre, size, margin)
        images.append(image)
        masks.append(mask)
    return np.stack(images), np.stack(masks)


def dice(one: np.ndarray, other: np.ndarray, value: int) -> float:
    """Dice of a class in two masks; NaN where neither has it."""
    a, b = one == value, other == value
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def mean_dice(predicted: Sequence[np.ndarray], masks: Sequence[np.ndarray], values: Sequence[int]) -> float:
    """Mean over classes of the mean over cases, cases without the class in both left out; NaN without cases."""
    scores = np.array([[dice(p, np.asarray(m), value) for value in values] for p, m in zip(predicted, masks, strict=True)])
    if not scores.size:
        return float("nan")
    per_class = [float(np.nanmean(column)) for column in scores.T if np.isfinite(column).any()]
    return float(np.mean(per_class)) if per_class else float("nan")
