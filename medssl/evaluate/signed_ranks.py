"""Wilcoxon's signed ranks on paired case scores, and Holm's correction."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy import stats

DECIMALS = 12
"""Differences that are equal to this many decimals are tied."""


def signed_ranks(difference: Float64[np.ndarray, "n"]) -> tuple[float, float]:
    """Two-sided p-value of the signed-rank test and the matched-pairs rank-biserial correlation, without zeros.

    Source: Wilcoxon, Biometrics Bulletin 1:80 (1945); effect size: Kerby, Comprehensive Psychology 3:1 (2014).
    """
    nonzero = np.round(difference[np.isfinite(difference)], DECIMALS)
    nonzero = nonzero[nonzero != 0]
    if len(nonzero) == 0:
        return 1.0, 0.0
    ranks = stats.rankdata(np.abs(nonzero))
    balance = float((ranks * np.sign(nonzero)).sum() / ranks.sum())
    return float(stats.wilcoxon(nonzero).pvalue), balance


def holm(p: Float64[np.ndarray, "m"]) -> Float64[np.ndarray, "m"]:
    """Step-down adjusted p-values `(m,)`; NaN stays NaN and does not count.

    Source: Holm, Scandinavian Journal of Statistics 6:65 (1979).
    """
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted
