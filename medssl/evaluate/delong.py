"""DeLong's test of two correlated areas under the ROC curve."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64
from scipy import stats

from medssl.evaluate.intervals import Interval, rare_note


def components(
    scores: Float64[np.ndarray, "n"], is_positive: Bool[np.ndarray, "n"]
) -> tuple[Float64[np.ndarray, "positives"], Float64[np.ndarray, "negatives"]]:
    """Placement values of the positives `(m,)` and of the negatives `(k,)`, by midranks; the mean of either is the AUC.

    Source: DeLong, DeLong, Clarke-Pearson, Biometrics 44:837 (1988), eq. 3–5; midranks: Sun and Xu, IEEE SPL 21:1389 (2014).
    """
    positives, negatives = scores[is_positive], scores[~is_positive]
    m, k = len(positives), len(negatives)
    among_all = stats.rankdata(np.concatenate([positives, negatives]))
    of_positives = (among_all[:m] - stats.rankdata(positives)) / k
    of_negatives = 1 - (among_all[m:] - stats.rankdata(negatives)) / m
    return of_positives, of_negatives


def delong(
    a: list[Float64[np.ndarray, "n"]], b: list[Float64[np.ndarray, "n"]], is_positive: Bool[np.ndarray, "n"], confidence: float
) -> Interval:
    """The difference of the AUCs of `a` and `b` with its normal interval and p-value; each is a list of scores per seed.

    AUC is linear in the placement values, so their mean over seeds gives the variance of the mean AUC over seeds.
    Needs at least two positives and two negatives, and independent cases.
    """
    mean_a, mean_b = (
        [np.mean([components(scores, is_positive)[side] for scores in seeds], axis=0) for side in (0, 1)] for seeds in (a, b)
    )
    on_positives, on_negatives = mean_a[0] - mean_b[0], mean_a[1] - mean_b[1]
    difference = float(on_positives.mean())
    if min(len(on_positives), len(on_negatives)) < 2:
        return Interval(difference, np.nan, np.nan, np.nan, np.nan, "delong", "no interval: fewer than 2 cases in a class")
    variance = on_positives.var(ddof=1) / len(on_positives) + on_negatives.var(ddof=1) / len(on_negatives)
    error = float(np.sqrt(variance))
    if error == 0:
        p = 1.0 if difference == 0 else np.nan
        return Interval(difference, np.nan, np.nan, p, 0.0, "delong", "no interval: no variance")
    half = error * float(stats.norm.ppf((1 + confidence) / 2))
    p = float(2 * stats.norm.sf(abs(difference) / error))
    note = rare_note(min(len(on_positives), len(on_negatives)))
    return Interval(difference, difference - half, difference + half, p, error, "delong", note)
