"""Hamming distance of perceptual hashes: with dHash and threshold 6 this is HASH-6 of "Less is More".

Source: Wolf et al. 2024, doi 10.1016/j.compbiomed.2024.109242; bits as in imagehash.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64

from medssl.core.errors import StudyError
from medssl.reduce import hamming
from medssl.reduce.hashes import word_names
from medssl.reduce.pairs import Pairs, leaders_in_blocks
from medssl.reduce.slices import NO_TWIN, Neighbours, Slices

TITLE = "perceptual hash"
DESCRIPTORS = {"hash_sizes": "size", "greys": "grey"}
"""Options of the step describe, and the option of this reducer from which each takes a value."""
MAX_DISTANCE = {"size": {8: 64, 16: 256}}
"""The largest possible distance, by the option that it depends on; a larger threshold is refused before any work."""
BLOCK = 32_768
LARGE = 4_096


class Hash(Pairs):
    """Number of bits that differ between two slices' hashes, of size² bits.

    Options:
        kind: the hash; dHash compares neighbouring pixels, pHash low frequencies, aHash the mean, wHash wavelets.
        size: side of the hash in bits; 8 gives 64 bits, 16 gives 256.
        grey: the range that is mapped to 8 bits; `window` is that of the volume, `per_slice` each slice's own as in the paper.
    """

    default_threshold = 6.0
    whole_steps = True

    def __init__(
        self,
        slices: Slices,
        *,
        kind: Literal["dhash", "phash", "ahash", "whash"] = "dhash",
        size: Literal[8, 16] = 8,
        grey: Literal["window", "per_slice"] = "window",
    ) -> None:
        super().__init__(slices)
        self.max_threshold = float(MAX_DISTANCE["size"][size])
        names = word_names(kind, size, grey)
        if any(name not in slices.columns for name in names):
            raise StudyError(
                f"reducer 'hash': the descriptors hold no {kind} of size {size} ({grey} grey). Describe the cohort with it."
            )
        self.codes = np.stack([slices.columns[name] for name in names], axis=1)

    def distances(self, anchor: int, others: Int64[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
        return hamming.distances(self.codes[anchor], self.codes[others]).astype(np.float32)

    def vectors(self) -> Float32[np.ndarray, "n d"] | None:
        bits = np.unpackbits(self.codes.astype(">u8").view(np.uint8).reshape(len(self.codes), 8 * self.codes.shape[1]), axis=1)
        return bits.astype(np.float32) * 2 - 1

    def leaders(
        self, members: Int64[np.ndarray, "n"], threshold: float
    ) -> tuple[Int64[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
        if len(members) < LARGE:
            return super().leaders(members, threshold)
        radius = int(np.floor(threshold))
        codes, first, inverse = hamming.unique_in_order(self.codes[members])
        twin, distance = leaders_in_blocks(
            len(codes),
            BLOCK,
            lambda items, keepers: hamming.first_within(codes[items], codes[keepers], radius),
            lambda items: hamming.pairs_within(codes[items], radius),
        )
        keeper = np.where(twin == NO_TWIN, np.arange(len(codes)), twin)[inverse]
        of_slice = first[keeper]
        kept = of_slice == np.arange(len(members))
        twin_distance = np.nan_to_num(distance, nan=0.0)[inverse]
        return np.where(kept, NO_TWIN, members[of_slice]), np.where(kept, np.nan, twin_distance).astype(np.float32)

    def neighbours(self, members: Int64[np.ndarray, "n"], threshold: float) -> Neighbours:
        return hamming.pairs_within(self.codes[members], int(np.floor(threshold)))
