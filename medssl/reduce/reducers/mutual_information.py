"""Mutual information of slices, on the windowed values."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64

from medssl.core.bounds import Bins, Count
from medssl.core.errors import StudyError
from medssl.reduce.information import bin_codes, entropy_bits, mutual_information_bits
from medssl.reduce.pairs import Pairs
from medssl.reduce.slice_cache import SliceCache
from medssl.reduce.slices import Slices

TITLE = "mutual information"
MAX_DISTANCE = {"form": {"normalised": 1.0}}
"""The largest possible distance, by the option that it depends on; a limit in bits depends on `bins` too."""


class MutualInformation(Pairs):
    """The share of the richer slice's information that the other lacks: 1 − I/max H (`normalised`), or max H − I in bits
    (`bits`).

    Both are metrics, 0 for equal slices. Raw I would call two blank slices different and two detailed ones similar. Slices of
    different shape share nothing.

    Source: Kraskov et al. 2005, "Hierarchical clustering using mutual information", doi 10.1209/epl/i2004-10483-y, eqs 6-7.

    Options:
        form: how it is measured; `normalised` is a share from 0 to 1, `bits` is what only the richer slice has.
        bins: grey levels that values are counted in.
        memory_mb: for caching slices while they are compared, in MiB; others are read again.
    """

    costly = True
    needs = ("plane",)

    def __init__(
        self, slices: Slices, *, form: Literal["normalised", "bits"] = "normalised", bins: Bins = 64, memory_mb: Count = 1024
    ) -> None:
        super().__init__(slices)
        self.form, self.bins = form, bins
        self.max_threshold = MAX_DISTANCE["form"][form] if form == "normalised" else float(np.log2(bins))
        self.default_threshold = 0.5 if form == "normalised" else self.max_threshold / 4
        self._cached = SliceCache(self._codes, lambda cached: cached[0].nbytes, memory_mb)

    def distances(self, anchor: int, others: Int64[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
        codes, entropy = self._cached(int(anchor))
        scaled = codes.astype(np.intp) * self.bins
        distances = np.empty(len(others), np.float32)
        for k, other in enumerate(others):
            codes_b, entropy_b = self._cached(int(other))
            richer = max(entropy, entropy_b)
            if richer == 0.0:
                shared = 0.0
            elif len(codes) != len(codes_b):
                distances[k] = self.max_threshold
                continue
            else:
                shared = mutual_information_bits(scaled, codes_b, self.bins, (entropy, entropy_b))
            unshared = max(richer - shared, 0.0)
            unshared = 0.0 if unshared < 1e-9 else unshared
            distances[k] = unshared if self.form == "bits" else unshared / richer if richer else 0.0
        return distances

    def _codes(self, index: int) -> tuple[np.ndarray, float]:
        if self.slices.plane is None:
            raise StudyError("reducer 'mutual_information' compares pixels, and none were given.")
        codes = bin_codes(self.slices.plane(index).reshape(-1), self.bins).astype(np.uint16)
        return codes, entropy_bits(np.bincount(codes, minlength=self.bins))
