"""The banded search finds every pair within the radius, once, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.core.rng import rng
from medssl.reduce import hamming


def codes_with_neighbours(seed: int, num: int, words: int, *, skew: float = 0.5) -> np.ndarray:
    """Codes of which many lie within a few bits of another, some bits nearly constant, some codes equal."""
    generator = rng(seed, "codes")
    bits = generator.random((num, words * 64)) < np.where(np.arange(words * 64) % 3 == 0, skew, 0.03)
    for place in range(num // 2, num):
        bits[place] = bits[place - num // 2]
        bits[place, generator.choice(words * 64, generator.integers(0, 10), replace=False)] ^= True
    return np.packbits(bits, axis=1).view(np.uint64).reshape(num, words)


def brute(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.bitwise_count(left[:, None] ^ right[None]).sum(2)


def gathered(blocks) -> list[tuple[int, int, int]]:
    return [item for i, j, d in blocks for item in zip(i.tolist(), j.tolist(), d.tolist(), strict=True)]


@pytest.mark.parametrize("small", [1024, 10])
@pytest.mark.parametrize("words", [1, 4])
@pytest.mark.parametrize("radius", [0, 1, 2, 5, 6, 9, 17])
def test_all_pairs_once(words, radius, small, count, monkeypatch):
    monkeypatch.setattr(hamming, "SMALL", small)
    monkeypatch.setattr(hamming, "WIDE", 48)
    monkeypatch.setattr(hamming, "CHUNK", 1 << 15)
    for seed in range(count):
        codes = codes_with_neighbours(seed, 300, words)
        found = gathered(hamming.pairs_within(codes, radius))
        apart = brute(codes, codes)
        expected = {(i, j, int(apart[i, j])) for i, j in np.argwhere(np.triu(apart <= radius, 1)).tolist()}
        assert len(found) == len(set(found)) and set(found) == expected


@pytest.mark.parametrize("radius", [3, 6])
def test_all_pairs_with_every_plan(radius, monkeypatch):
    """Whatever plan the costs choose, the pigeonhole holds."""
    codes = codes_with_neighbours(1, 1500, 1, skew=0.5)
    apart = brute(codes, codes)
    expected = int(np.triu(apart <= radius, 1).sum())
    numbers = []
    for flip_cost, pair_cost in ((0.0, 1.0), (1e9, 1e-9), (20.0, 1.0), (1.0, 1e6)):
        monkeypatch.setattr(hamming, "FLIP_COST", flip_cost)
        monkeypatch.setattr(hamming, "PAIR_COST", pair_cost)
        numbers.append(len(gathered(hamming.pairs_within(codes, radius))))
    assert numbers == [expected] * 4


def test_first_keeper_is_the_first_within_the_radius():
    codes = codes_with_neighbours(3, 6000, 1)
    queries, keepers = codes[:3000], codes[3000:]
    position, distance = hamming.first_within(queries, keepers, 6)
    near = brute(queries, keepers) <= 6
    expected = np.where(near.any(1), near.argmax(1), -1)
    assert np.array_equal(position, expected) and (expected >= 0).sum() > 100
    hit = expected >= 0
    assert np.array_equal(distance[hit], brute(queries, keepers)[hit, expected[hit]])
    assert np.array_equal(hamming.first_within(queries[:20], keepers, 6)[0], expected[:20])


def test_bands_share_out_every_bit_and_obey_the_pigeonhole():
    codes = codes_with_neighbours(4, 30_000, 1)
    for radius in range(10):
        bands = hamming.plan(codes, radius)
        used = [bit for band in bands for bit in band.bits]
        assert len(used) == len(set(used))
        assert sum(band.radius + 1 for band in bands) == radius + 1 or bands[0].bits == ()


def test_nothing_to_compare_gives_nothing():
    assert gathered(hamming.pairs_within(np.empty((0, 1), np.uint64), 6)) == []
    assert gathered(hamming.pairs_within(np.array([5], np.uint64), 6)) == []
    position, _ = hamming.first_within(np.array([5], np.uint64), np.empty(0, np.uint64), 6)
    assert position.tolist() == [-1]
