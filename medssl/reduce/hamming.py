"""Exact search of binary codes within a Hamming radius, without comparing all pairs.

The bits are cut into m bands. If the bands' radii add up to r − m + 1, two codes within radius r agree in at least one band to
within its radius (pigeonhole). So only codes in buckets of a band that are equal or differ in one bit are compared. The plan
with fewest comparisons is used. Bits are assigned to bands such that each band separates the codes as well as it can.

Source: Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with multi-index hashing", TPAMI 2014, §3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64

from medssl.reduce.slices import Neighbours

CHUNK = 1 << 21
"""Candidate pairs compared at a time: bounds the memory."""

MAX_BAND_BITS = 20
SMALL = 1024
WIDE = 96
FLIP_COST = 20.0
PAIR_COST = 1.0


@dataclass(frozen=True)
class Band:
    """Some bits of the code, and in how many of them two codes may differ."""

    bits: tuple[int, ...]
    radius: int

    def keys(self, codes: UInt64[np.ndarray, "n words"]) -> Int64[np.ndarray, "n"]:
        """The band's bits of codes (n, words), (n,) int64 below 2^bits."""
        found = np.zeros(len(codes), np.uint64)
        for place, bit in enumerate(self.bits):
            word, shift = divmod(bit, 64)
            found |= ((codes[:, word] >> np.uint64(shift)) & np.uint64(1)) << np.uint64(place)
        return found.astype(np.int64)

    def flips(self) -> list[int]:
        """The XOR masks that turn a key into each key within the radius, the key itself first."""
        return [0] + ([1 << place for place in range(len(self.bits))] if self.radius else [])

    def mask(self, words: int) -> UInt64[np.ndarray, "{words}"]:
        """The band's bits as a mask (words,) uint64."""
        mask = [0] * words
        for bit in self.bits:
            mask[bit // 64] |= 1 << (bit % 64)
        return np.array(mask, np.uint64)


def distances(code: UInt64[np.ndarray, "words"], codes: UInt64[np.ndarray, "n words"]) -> Int64[np.ndarray, "n"]:
    """Hamming distances of one code (words,) to codes (n, words), (n,) int64."""
    return np.bitwise_count(codes ^ code).sum(1, dtype=np.int64)


def pairs_within(codes: UInt64[np.ndarray, "n words"] | UInt64[np.ndarray, "n"], radius: int) -> Neighbours:
    """All pairs i < j of codes (n, words) uint64 within distance `radius`, once each, as blocks (i, j, distance)."""
    codes = _as_words(codes)
    unique, first, inverse = unique_in_order(codes)
    yield from _twins(inverse)
    members, starts = _groups(inverse, len(first))
    for a, b, distance in _unique_pairs(unique, radius):
        if len(first) == len(codes):
            i, j = first[a], first[b]
        else:
            i, j, distance = _expand(a, b, distance, members, starts)
        yield np.minimum(i, j), np.maximum(i, j), distance


def first_within(
    queries: UInt64[np.ndarray, "n words"] | UInt64[np.ndarray, "n"],
    keepers: UInt64[np.ndarray, "m words"] | UInt64[np.ndarray, "m"],
    radius: int,
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """For each query the first keeper within distance `radius`: its position (−1: none) and the distance. Codes (n, words)."""
    queries, keepers = _as_words(queries), _as_words(keepers)
    found = np.full(len(queries), len(keepers), np.int64)
    if len(queries) and len(keepers):
        if len(queries) * len(keepers) <= 1 << 22:
            blocks = _compare_all(queries, keepers, radius)
        else:
            blocks = _banded(queries, keepers, radius, plan(keepers, radius))
        for q, k, _ in blocks:
            np.minimum.at(found, q, k)
    hit = found < len(keepers)
    distance = np.full(len(queries), -1, np.int64)
    distance[hit] = np.bitwise_count(queries[hit] ^ keepers[found[hit]]).sum(1, dtype=np.int64)
    return np.where(hit, found, -1), distance


def plan(codes: UInt64[np.ndarray, "n words"], radius: int) -> list[Band]:
    """The bands that leave fewest pairs to compare among codes (n, words); every pair within `radius` shares a bucket of one."""
    num_bits = codes.shape[1] * 64
    sample = codes[:: max(len(codes) // 20_000, 1)]
    shares = np.array([((sample[:, b // 64] >> np.uint64(b % 64)) & np.uint64(1)).mean() for b in range(num_bits)])
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(shares * np.log2(shares)) - np.nan_to_num((1 - shares) * np.log2(1 - shares))
    most_bits = min(max(len(codes).bit_length() + 1, 8), MAX_BAND_BITS)
    best, best_cost = [Band((), 0)], float(len(codes)) ** 2 / 2 * PAIR_COST
    for num_bands in range(1, min(radius, num_bits - 1) + 2):
        spare = radius - num_bands + 1
        if spare > num_bands:
            continue
        bands = [
            Band(tuple(bits[:most_bits]), 1 if number < spare else 0) for number, bits in enumerate(_deal(entropy, num_bands))
        ]
        cost = 0.0
        for band in bands:
            counts = np.bincount(band.keys(sample), minlength=1 << len(band.bits)).astype(np.float64)
            scale = len(codes) / len(sample)
            met = sum(float(counts @ counts[np.arange(len(counts)) ^ flip]) for flip in band.flips())
            cost += max(met - len(sample), 0.0) * scale**2 / 2 * PAIR_COST + len(band.flips()) * len(codes) * FLIP_COST
        if cost < best_cost:
            best, best_cost = bands, cost
    return best


def _deal(entropy: np.ndarray, num_bands: int) -> list[list[int]]:
    """Bits assigned to bands, the most informative first, each to the band with the least entropy so far."""
    hands: list[list[int]] = [[] for _ in range(num_bands)]
    wealth = np.zeros(num_bands)
    for bit in np.argsort(-entropy, kind="stable"):
        poorest = min(range(num_bands), key=lambda band: (wealth[band], len(hands[band])))
        hands[poorest].append(int(bit))
        wealth[poorest] += entropy[bit]
    return hands


def _unique_pairs(codes: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    if len(codes) <= SMALL:
        for a, b, distance in _compare_all(codes, codes, radius):
            ordered = a < b
            yield a[ordered], b[ordered], distance[ordered]
        return
    for a, b, distance in _banded(codes, None, radius, plan(codes, radius)):
        yield a, b, distance


def _banded(
    left: np.ndarray, right: np.ndarray | None, radius: int, bands: list[Band]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs (left, right) within the radius, once each; `right` None: unordered pairs within `left`."""
    seen: list[tuple[np.ndarray, int]] = []
    for band in bands:
        left_order, left_sorted, left_starts = _buckets(left, band)
        right_order, right_sorted, right_starts = (
            (left_order, left_sorted, left_starts) if right is None else _buckets(right, band)
        )
        filled = np.flatnonzero(np.diff(left_starts))
        for flip in band.flips():
            other = filled ^ flip
            usable = np.diff(right_starts)[other] > 0
            if right is None:
                usable &= other >= filled
            own, other = filled[usable], other[usable]
            for a, b, distance in _join(left_sorted, left_starts, own, right_sorted, right_starts, other, radius):
                fresh = a < b if right is None and flip == 0 else np.ones(len(a), bool)
                for mask, allowed in seen:
                    fresh &= np.bitwise_count((left_sorted[a] ^ right_sorted[b]) & mask).sum(1) > allowed
                if fresh.any():
                    yield left_order[a[fresh]], right_order[b[fresh]], distance[fresh]
        seen.append((band.mask(left.shape[1]), band.radius))


def _buckets(codes: np.ndarray, band: Band) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes sorted by their key: the order (n,), the sorted codes (n, words), where each key starts (2^bits + 1,)."""
    keys = band.keys(codes)
    order = np.argsort(keys, kind="stable")
    starts = np.zeros((1 << len(band.bits)) + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=len(starts) - 1), out=starts[1:])
    return order, codes[order], starts


def _join(
    left: np.ndarray,
    left_starts: np.ndarray,
    own: np.ndarray,
    right: np.ndarray,
    right_starts: np.ndarray,
    other: np.ndarray,
    radius: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Compare every code of bucket own[k] with every code of bucket other[k]; positions in the sorted codes."""
    first, size = right_starts[other], right_starts[other + 1] - right_starts[other]
    rows = left_starts[own + 1] - left_starts[own]
    wide = (size >= WIDE) & (rows >= 4)
    for k in np.flatnonzero(wide):
        stop = left_starts[own[k] + 1]
        step = max(CHUNK // int(size[k]), 1)
        block = right[first[k] : first[k] + size[k]]
        for start in range(int(left_starts[own[k]]), int(stop), step):
            end = min(start + step, int(stop))
            for a, b, distance in _compare_all(left[start:end], block, radius):
                yield a + start, b + first[k], distance
    own, first, size, rows = own[~wide], first[~wide], size[~wide], rows[~wide]
    if not len(own):
        return
    row = _ranges(left_starts[own], rows)
    row_first, row_size = np.repeat(first, rows), np.repeat(size, rows)
    ends = np.cumsum(row_size)
    start = 0
    while start < len(row):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + CHUNK, side="right")), start + 1)
        a = np.repeat(row[start:stop], row_size[start:stop])
        b = _ranges(row_first[start:stop], row_size[start:stop])
        differing = np.bitwise_count(left[a] ^ right[b])
        distance = differing[:, 0] if differing.shape[1] == 1 else differing.sum(1, dtype=np.int64)
        within = np.flatnonzero(distance <= radius)
        if len(within):
            yield a[within], b[within], distance[within].astype(np.int64)
        start = stop


def _compare_all(left: np.ndarray, right: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    step = max(CHUNK // max(len(right), 1), 1)
    for start in range(0, len(left), step):
        differing = np.bitwise_count(left[start : start + step, None, 0] ^ right[None, :, 0])
        if left.shape[1] > 1:
            differing = differing.astype(np.uint16)
            for word in range(1, left.shape[1]):
                differing += np.bitwise_count(left[start : start + step, None, word] ^ right[None, :, word])
        within = np.flatnonzero(differing.reshape(-1) <= radius)
        a, b = np.divmod(within, len(right))
        yield a + start, b, differing.reshape(-1)[within].astype(np.int64)


def _as_words(codes: np.ndarray) -> np.ndarray:
    codes = np.asarray(codes, np.uint64)
    return np.ascontiguousarray(codes[:, None] if codes.ndim == 1 else codes)


def unique_in_order(
    codes: UInt64[np.ndarray, "n words"],
) -> tuple[UInt64[np.ndarray, "distinct words"], Int64[np.ndarray, "distinct"], Int64[np.ndarray, "n"]]:
    """Distinct codes in order of first appearance, that appearance, and for each code its distinct one."""
    order = np.lexsort(codes.T) if codes.shape[1] > 1 else np.argsort(codes[:, 0], kind="stable")
    ordered = codes[order]
    fresh = np.ones(len(codes), bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(1)
    group = np.cumsum(fresh) - 1
    first = order[fresh]
    rank = np.empty(len(first), np.int64)
    appearance = np.argsort(first, kind="stable")
    rank[appearance] = np.arange(len(first))
    inverse = np.empty(len(codes), np.int64)
    inverse[order] = rank[group]
    return codes[first[appearance]], first[appearance], inverse


def _groups(inverse: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes sorted by their distinct one, and where each distinct one's codes start."""
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(inverse, minlength=count), out=starts[1:])
    return np.argsort(inverse, kind="stable"), starts


def _twins(inverse: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of equal codes, in blocks."""
    members, starts = _groups(inverse, int(inverse.max()) + 1 if len(inverse) else 0)
    sizes = np.diff(starts)
    if (sizes <= 1).all():
        return
    left = np.arange(len(members))
    right_count = np.repeat(starts[1:], sizes) - left - 1
    ends = np.cumsum(right_count)
    start = 0
    while start < len(members):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + CHUNK, side="right")), start + 1)
        a = np.repeat(left[start:stop], right_count[start:stop])
        b = _ranges(left[start:stop] + 1, right_count[start:stop])
        if len(a):
            yield members[a], members[b], np.zeros(len(a), np.int64)
        start = stop


def _expand(
    a: np.ndarray, b: np.ndarray, distance: np.ndarray, members: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of distinct codes → pairs of the codes that equal them."""
    sizes = np.diff(starts)
    i = np.repeat(np.arange(len(a)), sizes[a])
    left = members[_ranges(starts[a], sizes[a])]
    again = sizes[b][i]
    right = members[_ranges(starts[b][i], again)]
    return np.repeat(left, again), right, np.repeat(distance[i], again)


def _ranges(first: np.ndarray, size: np.ndarray) -> np.ndarray:
    """first[0], first[0]+1, … (size[0] numbers), then first[1], …"""
    total = int(size.sum())
    return np.arange(total) + np.repeat(first - (np.cumsum(size) - size), size)
