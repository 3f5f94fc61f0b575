"""Structural similarity of slices; the terms of a single slice are computed once.

Source: Wang et al. 2004, "Image quality assessment", doi 10.1109/TIP.2003.819861, eq. 13, with its Gaussian window σ = 1.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Float32

SIGMA = 1.5
REACH = 5
C1, C2 = 0.01**2, 0.03**2
TILE = 64


@dataclass(frozen=True)
class Moments:
    """The terms of SSIM for one slice (rows, columns), float32: values about 0; windowed mean, and mean² and variance with half
    the constants added (rows − 10, columns − 10).
    """

    centred: Float32[np.ndarray, "rows columns"]
    mean: Float32[np.ndarray, "*inner"]
    mean_squared: Float32[np.ndarray, "*inner"]
    variance: Float32[np.ndarray, "*inner"]

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.centred.nbytes + 3 * self.mean.nbytes


def moments(unit: Float[np.ndarray, "rows columns"]) -> Moments:
    """Moments of a slice (rows, columns) in 0..1."""
    centred = np.ascontiguousarray(unit, np.float32) - np.float32(0.5)
    mean = blurred(centred)
    variance = blurred(centred * centred) - mean * mean + np.float32(C2 / 2)
    return Moments(centred, mean, (mean + np.float32(0.5)) ** 2 + np.float32(C1 / 2), variance)


def ssim(a: Moments, b: Moments) -> float:
    """Mean structural similarity of two slices of one shape, −1 … 1, over all places where the window fits."""
    both = a.mean * b.mean
    top = blurred(a.centred * b.centred)
    top -= both
    top *= 2
    top += np.float32(C2)
    # brightness from zero, added before the product: expanded, it would lose the small values of air to rounding
    np.multiply(a.mean + np.float32(0.5), b.mean + np.float32(0.5), out=both)
    both *= 2
    both += np.float32(C1)
    top *= both
    bottom = np.add(a.mean_squared, b.mean_squared, out=both)
    bottom *= a.variance + b.variance
    top /= bottom
    return float(top.mean(dtype=np.float64))


def fits(shape: tuple[int, ...]) -> bool:
    """Whether the window fits into an image of this shape."""
    return min(shape) > 2 * REACH


def blurred(image: Float32[np.ndarray, "rows columns"]) -> Float32[np.ndarray, "rows-10 columns-10"]:
    """Gaussian window over an image (rows, columns) float32 where it fits: (rows − 10, columns − 10).

    The window is a banded matrix: tiles of 64 outputs share one small dense block of it.
    """
    rows, columns = image.shape[0] - 2 * REACH, image.shape[1] - 2 * REACH
    half = np.empty((rows, image.shape[1]), np.float32)
    for start in range(0, rows, TILE):
        stop = min(start + TILE, rows)
        np.matmul(_band(stop - start), image[start : stop + 2 * REACH], out=half[start:stop])
    out = np.empty((rows, columns), np.float32)
    for start in range(0, columns, TILE):
        stop = min(start + TILE, columns)
        np.matmul(half[:, start : stop + 2 * REACH], _band(stop - start).T, out=out[:, start:stop])
    return out


@cache
def _band(rows: int) -> np.ndarray:
    """The window's matrix (rows, rows + 10)."""
    x = np.arange(-REACH, REACH + 1)
    weights = np.exp(-0.5 * (x / SIGMA) ** 2)
    weights /= weights.sum()
    band = np.zeros((rows, rows + 2 * REACH), np.float32)
    for row in range(rows):
        band[row, row : row + 2 * REACH + 1] = weights
    band.flags.writeable = False
    return band
