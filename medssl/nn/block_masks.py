"""Masks of whole blocks of patches, in which a network sees a learned token instead of the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from medssl.core.rng import key, uniforms

TRIES = 10
"""How often in a row a block that does not fit is drawn again."""
SMALLEST = 4
ASPECTS = (0.3, 3.3)


def block_masks(
    grid: Sequence[int], counts: Int64[np.ndarray, "n"], stream: int, keys: UInt64[np.ndarray, "n"]
) -> Bool[np.ndarray, "n places"]:
    """Which patches of each image are hidden: exactly `counts` of them, a function of (stream, key) alone.

    A block has from four patches to as many as are still missing. One that leaves the grid, or hides no patch or too many, is
    drawn again. After ten such draws, single patches complete the number.

    Source: Bao et al., BEiT, arXiv 2106.08254, algorithm 1.
    """
    places = np.indices(tuple(grid)).reshape(len(grid), -1)
    hidden = np.zeros((len(keys), places.shape[1]), dtype=bool)
    failed = np.zeros(len(keys), dtype=np.int64)
    number = 0
    while len(rows := np.flatnonzero((counts - hidden.sum(1) >= SMALLEST) & (failed < TRIES))):
        left = (counts - hidden.sum(1))[rows]
        block = _blocks(grid, places, left, uniforms(key(stream, "block", number), keys[rows], 2 * len(grid)))
        new = (block & ~hidden[rows]).sum(1)
        fits = (new > 0) & (new <= left)
        hidden[rows[fits]] |= block[fits]
        failed[rows] = np.where(fits, 0, failed[rows] + 1)
        number += 1
    order = np.argsort(uniforms(key(stream, "single"), keys, hidden.shape[1]) + hidden, axis=1, kind="stable")
    left = counts - hidden.sum(1)
    np.put_along_axis(hidden, order, np.take_along_axis(hidden, order, 1) | (np.arange(hidden.shape[1]) < left[:, None]), 1)
    return hidden


def even_ratios(
    limits: tuple[float, float], stream: int, keys: UInt64[np.ndarray, "n"], whole: UInt64[np.ndarray, "all"]
) -> Float64[np.ndarray, "n"]:
    """A share for each image of a part of a batch: each of as many equal steps between the limits as the `whole` has images is
    taken once.
    """
    order, within = uniforms(stream, keys, 2).T
    step = np.searchsorted(np.sort(uniforms(stream, whole, 2)[:, 0]), order)
    return limits[0] + (limits[1] - limits[0]) * (step + within) / len(whole)


def _blocks(
    grid: Sequence[int], places: Int64[np.ndarray, "d places"], left: Int64[np.ndarray, "n"], drawn: Float64[np.ndarray, "n _"]
) -> Bool[np.ndarray, "n places"]:
    """A block for each image, from two random numbers for each axis; an empty one if it would leave the grid."""
    dims = len(grid)
    low, high = np.log(ASPECTS)
    area = SMALLEST + (left - SMALLEST) * drawn[:, 0]
    aspects = np.pad(low + (high - low) * drawn[:, 1:dims], ((0, 0), (1, 0)))  # of each axis to the first
    sides = np.rint(area[:, None] ** (1 / dims) * np.exp(aspects - aspects.mean(1, keepdims=True))).clip(1)
    room = np.array(grid) - sides
    first = np.floor((room + 1) * drawn[:, dims:])[:, :, None]
    inside = (places >= first) & (places < first + sides[:, :, None])
    return inside.all(1) & (room >= 0).all(1)[:, None]
