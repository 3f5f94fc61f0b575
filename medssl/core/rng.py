"""Randomness as a function of names, never of process history.

`rng(seed, "split", subject_id)` is the same stream in every process, on every rank and after every resume. So workers,
their number, their order and a restart cannot change a run.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(seed: int, *names: str | int) -> int:
    """64-bit key of a seed and names."""
    text = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def rng(seed: int, *names: str | int) -> np.random.Generator:
    """A generator that depends on nothing but the seed and the names."""
    return np.random.Generator(np.random.PCG64(key(seed, *names)))


def ids_to_keys(ids: list[str]) -> np.ndarray:
    """64-bit keys `(n,)` of sample ids, computed once per run and passed to `uniforms`."""
    return np.array([key(0, name) for name in ids], dtype=np.uint64)


def uniforms(stream: int, keys: np.ndarray, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) for each key, float64 `(n, count)`, as a function of (stream, key, position) alone.

    Counter-based, so a batch of thousands costs microseconds. The mixing is SplitMix64's finaliser applied twice.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, fig. 16.
    """
    with np.errstate(over="ignore"):
        start = _mix(np.asarray(keys, dtype=np.uint64) ^ _mix(np.uint64(stream)))
        counters = start[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)[None, :]
        bits = _mix(_mix(counters))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: np.ndarray | np.uint64) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))
