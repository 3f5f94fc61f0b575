"""All descriptors of a slice from a single read: hashes of the windowed 8-bit image, entropy of the windowed values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Num

from medssl.reduce.hashes import KINDS, Hasher, word_names
from medssl.reduce.information import entropy_bits
from medssl.reduce.windows import Window


def describe_slices(
    planes: list[Num[np.ndarray, "row col"]], window: Window, *, sizes: tuple[int, ...], greys: tuple[str, ...]
) -> dict[str, Num[np.ndarray, "n"]]:
    """Columns (n,) of descriptors of stored planes [row, col] of one shape: uint64 hash words, float64 entropy in bits."""
    height, width = planes[0].shape
    columns: dict[str, np.ndarray] = {}
    for grey in greys:
        mapped = replace(window, per_slice=grey == "per_slice")
        images = np.stack([mapped.grey(plane) for plane in planes])
        for size in sizes:
            for kind, words in Hasher(height, width, KINDS, size)(images).items():
                for word, name in enumerate(word_names(kind, size, grey)):
                    columns[name] = words[:, word]
    columns["entropy"] = np.array([entropy_bits(window.counts(plane)) for plane in planes])
    return columns
