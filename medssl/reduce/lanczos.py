"""Pillow's LANCZOS reduction of 8-bit images, bit for bit, for many images and several target sizes in one pass.

Pillow filters one axis, rounds to 8 bits, then filters the other, in fixed point with 22 fractional bits. The same integers
are exact in float64, so each filter becomes a matrix product. The columns, which are most of the work, are filtered in float32
at twice the speed. The upper and the lower bits of the weights each have products below 2²⁴, which are exact in float32, and
are added as integers. For every pair of sizes the result is compared once with Pillow's own on noise; if an unknown version of
Pillow differs, Pillow does the work.

Source: Pillow, src/libImaging/Resample.c (precompute_coeffs, normalize_coeffs_8bpc).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float64, UInt8

from medssl.core.rng import rng

SUPPORT = 3.0
FRACTION_BITS = 22
LOW_BITS = 8
"""Bits of a weight in its lower part."""
GROUP = 8
"""Columns of a wide target that one product filters."""
SMALL = 1_000_000
"""Products of at most this many terms are fast: OpenBLAS computes them without copying their factors."""


class Shrink:
    """Resizes images of one shape (height, width) to each of `targets` [(height, width), …]."""

    def __init__(self, height: int, width: int, targets: list[tuple[int, int]]) -> None:
        self.shape = (height, width)
        self.targets = targets
        self._order = {target: _order(height, width, *target) for target in targets}
        widths = sorted({w for (h, w), order in self._order.items() if w != width and order == "columns first"})
        self._columns = dict(zip(widths, map(slice, np.cumsum([0, *widths]), np.cumsum(widths)), strict=True))
        self._bands = _column_bands(width, tuple(widths))

    def __call__(self, images: UInt8[np.ndarray, "n height width"]) -> list[UInt8[np.ndarray, "n _ _"]]:
        """`images` (n, height, width) uint8 → one (n, target height, target width) uint8 per target."""
        height, width = self.shape
        narrow = np.empty((len(images), height, sum(self._columns.keys())), np.uint8)
        for number, image in enumerate(images) if self._columns else ():
            narrow[number] = self._narrowed(image)
        results = []
        for target in self.targets:
            if self._order[target] == "columns first":
                wide = images if target[1] == width else narrow[:, :, self._columns[target[1]]]
                results.append(_filter_rows(wide, target[0]).astype(np.uint8))
            elif self._order[target] == "rows first":
                results.append(_filter_columns(_filter_rows(images, target[0]), target[1]).astype(np.uint8))
            else:
                results.append(np.stack([_by_pillow(image, *target) for image in images]))
        return results

    def _narrowed(self, image: np.ndarray) -> np.ndarray:
        """The columns of all targets that are filtered first, side by side (height, Σ widths), rounded to 8 bits."""
        height, parts = len(image), self._bands[0].weights.shape[2]
        exact = image.astype(self._bands[0].weights.dtype)
        products = np.empty((height, sum(self._columns.keys()), parts), exact.dtype)
        for band in self._bands:
            weights = band.weights.reshape(band.last - band.first, -1)
            found = products.reshape(height, -1)[:, band.columns.start * parts : band.columns.stop * parts]
            num_rows = max(SMALL // weights.size, 1)
            for top in range(0, height, num_rows):
                some = slice(top, top + num_rows)
                np.matmul(exact[some, band.first : band.last], weights, out=found[some])
        sums = products[..., 0].astype(np.int32)  # as wide as Pillow's own
        for part in range(1, parts):
            sums <<= LOW_BITS
            sums += products[..., part].astype(np.int32)
        sums += 1 << (FRACTION_BITS - 1)
        sums >>= FRACTION_BITS
        return np.clip(sums, 0, 255, out=sums)


@dataclass(frozen=True)
class _Band:
    """Adjacent target columns `columns`, computed from the source columns `first` to `last` with integer weights."""

    first: int
    last: int
    columns: slice
    weights: np.ndarray
    """`(last − first, columns, parts)`: in float32 the upper bits and the lower ones, in float64 the weights as they are."""


def _filter_rows(images: np.ndarray, target: int) -> np.ndarray:
    """Filter and round along axis 1, unless nothing changes there."""
    if images.shape[1] == target:
        return images
    return _round(np.matmul(coefficients(images.shape[1], target).T, images.astype(np.float64, copy=False)))


def _filter_columns(images: np.ndarray, target: int) -> np.ndarray:
    """Filter and round along axis 2, unless nothing changes there."""
    if images.shape[2] == target:
        return images
    return _round(np.matmul(images.astype(np.float64, copy=False), coefficients(images.shape[2], target)))


@cache
def _order(height: int, width: int, target_height: int, target_width: int) -> str:
    """Which axis Pillow filters first for these sizes, found by trying Pillow: its rule changed between versions."""
    probe = rng(0, "lanczos", height, width).integers(0, 256, (1, height, width), dtype=np.uint8)
    wanted = _by_pillow(probe[0], target_height, target_width)
    if np.array_equal(_filter_rows(_filter_columns(probe, target_width), target_height)[0], wanted):
        return "columns first"
    if np.array_equal(_filter_columns(_filter_rows(probe, target_height), target_width)[0], wanted):
        return "rows first"
    return "ask Pillow"


def _by_pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


@cache
def coefficients(size: int, target: int) -> Float64[np.ndarray, "{size} {target}"]:
    """Weights (size, target) in units of one, each a multiple of 2⁻²²."""
    scale = size / target
    stretch = max(scale, 1.0)
    reach = SUPPORT * stretch
    weights = np.zeros((size, target))
    for column in range(target):
        centre = (column + 0.5) * scale
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), size)
        taps = [_kernel((x + first - centre + 0.5) * (1.0 / stretch)) for x in range(last - first)]
        total = 0.0
        for tap in taps:
            total += tap
        for x, tap in enumerate(taps):
            share = tap / total if total != 0.0 else tap
            weights[first + x, column] = int(math.copysign(0.5, share) + share * (1 << FRACTION_BITS))
    weights /= 1 << FRACTION_BITS
    weights.flags.writeable = False
    return weights


def _kernel(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -SUPPORT <= x < SUPPORT else 0.0


def _sinc(x: float) -> float:
    if x == 0.0:
        return 1.0
    x = x * math.pi
    return math.sin(x) / x


@cache
def _column_bands(width: int, targets: tuple[int, ...]) -> list[_Band]:
    """Groups of adjacent target columns with the source columns that they depend on.

    Most weights of a wide target are zero, so its columns form small groups. Narrow targets depend on every source column and
    share one product.
    """
    if not targets:
        return []
    weights = np.concatenate([coefficients(width, w) for w in targets], axis=1) * (1 << FRACTION_BITS)
    upper = np.floor(weights / (1 << LOW_BITS) + 0.5)
    halves = upper, weights - upper * (1 << LOW_BITS)
    if all(255 * abs(half).sum(0).max() < 1 << 24 for half in halves):
        parts = np.stack(halves, axis=2).astype(np.float32)
    else:
        parts = weights[..., None]
    starts, column = [0], 0
    for w in targets:
        if w > 2 * GROUP:
            starts += range(column, column + w, GROUP)
        column += w
    starts = sorted(set(starts))
    bands = []
    for start, stop in zip(starts, [*starts[1:], column], strict=True):
        used = np.flatnonzero(weights[:, start:stop].any(1))
        first, last = int(used[0]), int(used[-1]) + 1
        bands.append(_Band(first, last, slice(start, stop), np.ascontiguousarray(parts[first:last, start:stop])))
    return bands


def _round(filtered: np.ndarray) -> np.ndarray:
    """Fixed-point rounding and clipping to 8 bits, in place."""
    filtered += 0.5
    np.floor(filtered, out=filtered)
    return np.clip(filtered, 0.0, 255.0, out=filtered)
