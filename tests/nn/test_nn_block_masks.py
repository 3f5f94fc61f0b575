"""Masks of blocks: exact numbers, drawn for each image alone, as a slow reference draws them block by block."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medssl.core.rng import ids_to_keys, key, uniforms
from medssl.nn.block_masks import block_masks, even_ratios

KEYS = ids_to_keys([f"slice {number}" for number in range(60)])
GRIDS = [(14, 14), (6, 9), (4, 6, 5)]


def slow_mask(grid: tuple[int, ...], count: int, stream: int, own: np.ndarray) -> np.ndarray:
    """BEiT's algorithm 1 for one image, on the grid."""
    hidden, dims, number, failed = np.zeros(grid, dtype=bool), len(grid), 0, 0
    while count - hidden.sum() >= 4 and failed < 10:
        left = int(count - hidden.sum())
        drawn = uniforms(key(stream, "block", number), own, 2 * dims)[0]
        number += 1
        area = 4 + (left - 4) * drawn[0]
        ratios = [1.0, *(0.3 * (3.3 / 0.3) ** u for u in drawn[1:dims])]  # of the sides to the first
        unit = (area / math.prod(ratios)) ** (1 / dims)
        sides = [max(1, round(unit * ratio)) for ratio in ratios]
        failed += 1
        if any(side > n for side, n in zip(sides, grid, strict=True)):
            continue
        first = [math.floor((n - side + 1) * u) for n, side, u in zip(grid, sides, drawn[dims:], strict=True)]
        block = np.zeros(grid, dtype=bool)
        block[tuple(slice(f, f + side) for f, side in zip(first, sides, strict=True))] = True
        if 0 < (block & ~hidden).sum() <= left:
            hidden, failed = hidden | block, 0
    single = uniforms(key(stream, "single"), own, math.prod(grid))[0]
    flat = hidden.flatten()
    for place in np.argsort(single, kind="stable"):
        if not flat[place] and flat.sum() < count:
            flat[place] = True
    return flat


@pytest.mark.parametrize("grid", GRIDS)
def test_blocks_are_drawn_as_in_the_paper_until_the_number_is_exact(grid: tuple[int, ...]) -> None:
    counts = np.random.default_rng(0).integers(1, math.prod(grid) // 2 + 1, len(KEYS))
    found = block_masks(grid, counts, 7, KEYS)
    assert (found.sum(1) == counts).all()
    for image, count in enumerate(counts):
        assert (found[image] == slow_mask(grid, int(count), 7, KEYS[image : image + 1])).all(), image


def test_hidden_patches_lie_together_and_anywhere() -> None:
    counts = np.full(len(KEYS), 58)
    found = block_masks((14, 14), counts, 3, KEYS).reshape(-1, 14, 14)
    beside = (found[:, 1:] & found[:, :-1]).sum() + (found[:, :, 1:] & found[:, :, :-1]).sum()
    assert beside > 2.2 * 364 * (58 / 196) ** 2 * len(KEYS)  # pairs of neighbours, beside those of single patches
    assert (found.mean(0) > 0).all()


def test_a_mask_depends_on_the_image_and_the_stream_alone() -> None:
    counts = np.arange(len(KEYS)) % 30 + 1
    whole, order = block_masks((6, 9), counts, 3, KEYS), np.random.default_rng(0).permutation(len(KEYS))
    assert (block_masks((6, 9), counts[order], 3, KEYS[order]) == whole[order]).all()
    assert (block_masks((6, 9), counts[5:9], 3, KEYS[5:9]) == whole[5:9]).all()
    assert (block_masks((6, 9), counts, 4, KEYS) != whole).any(1).mean() > 0.9


def test_shares_are_spread_evenly_over_the_whole_batch_whatever_its_parts() -> None:
    whole = even_ratios((0.1, 0.5), 5, KEYS, KEYS)
    assert sorted(np.floor((whole - 0.1) / 0.4 * len(KEYS)).astype(int)) == list(range(len(KEYS)))
    parts = [even_ratios((0.1, 0.5), 5, KEYS[at : at + 15], KEYS) for at in range(0, len(KEYS), 15)]
    assert (np.concatenate(parts) == whole).all()
    assert not np.allclose(even_ratios((0.1, 0.5), 6, KEYS, KEYS), whole)
