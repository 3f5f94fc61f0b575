"""Entropy of a slice, mutual information of two: counts of codes, in bits."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Integer, Num


def entropy_bits(counts: Num[np.ndarray, "levels"]) -> float:
    """Shannon entropy −Σ p log₂ p of counts (any shape)."""
    filled = counts[counts > 0].astype(np.float64)
    share = filled / filled.sum()
    return float(max(-(share * np.log2(share)).sum(), 0.0))


def bin_codes(unit: Float[np.ndarray, "*shape"], bins: int) -> Int[np.ndarray, "*shape"]:
    """Bin of each value of 0..1, intp, as numpy.histogram2d places them (edges by linspace, the last bin closed). Any shape."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    codes = np.clip((unit * bins).astype(np.intp), 0, bins - 1)
    codes -= unit < edges[codes]
    return np.minimum(codes + (unit >= edges[codes + 1]), bins - 1)


def mutual_information_bits(
    scaled: Int[np.ndarray, "pixels"], codes: Integer[np.ndarray, "pixels"], bins: int, entropies: tuple[float, float]
) -> float:
    """I(a; b) = H(a) + H(b) − H(a, b) of two slices: `scaled` = bins × codes of a, `codes` of b, (n,) each.

    Source: Cover & Thomas, Elements of Information Theory, eq. 2.45.
    """
    joint = entropy_bits(np.bincount(scaled + codes, minlength=bins * bins))
    return max(entropies[0] + entropies[1] - joint, 0.0)
