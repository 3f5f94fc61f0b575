"""Bootstrap over units, BCa intervals, and the p-value that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

from medssl.core.rng import rng
from medssl.evaluate.sample import ROUNDING, Floats, apart

FEWEST_FOR_INTERVAL = 5
MOST_FOR_JACKKNIFE = 2000
FEWEST_OF_CLASS = 20
"""Where a score sets a class against the rest: with fewer units on one side the interval covers too little (docs/evaluate.md)."""
FEWEST_FOR_MEANS = 50
"""Bootstrap intervals of means are sound from about here (trust.md §7): below, every row says so."""
MOST_UNDEFINED_FRAC = 0.05
MOST_SHIFT = 1.0
"""Beyond one standard deviation of bias (calibration error in few bins) BCa's correction takes the interval off the estimate."""


def unit_weights(seed: int, name: str, num_units: int, num_bootstrap: int) -> Float64[np.ndarray, "r {num_units}"]:
    """Weights `(1 + b + j, u)` of units: the sample itself, `b` bootstrap counts, `j` leave-one-out rows (none for many units).

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 6 and 11.
    """
    draws = rng(seed, "bootstrap", name).integers(0, num_units, size=(num_bootstrap, num_units))
    rows = np.arange(num_bootstrap)[:, None] * num_units
    counts = np.bincount((draws + rows).ravel(), minlength=num_bootstrap * num_units).reshape(num_bootstrap, num_units)
    leave_out = 1.0 - np.eye(num_units) if num_units <= MOST_FOR_JACKKNIFE else np.empty((0, num_units))
    return np.concatenate([np.ones((1, num_units)), counts, leave_out])


@dataclass(frozen=True)
class Replicates:
    """One statistic under `unit_weights`: its value, its bootstrap `(b,)` and its jackknife `(u,)` or nothing.

    num_units: how many units it rests on; fewer than `u` where some have no value.
    num_rarer: of a score that sets a class against the rest, how many units the rarer side has.
    """

    value: float
    bootstrap: Float64[np.ndarray, "b"]
    jackknife: Float64[np.ndarray, "u"]
    num_units: int
    num_rarer: int | None = None

    @classmethod
    def of(cls, values: Float64[np.ndarray, "r"], num_bootstrap: int, num_units: int) -> Replicates:
        """Split one row per weight `(1 + b + j,)` into its three parts."""
        return cls(float(values[0]), values[1 : 1 + num_bootstrap], values[1 + num_bootstrap :], num_units)

    def __sub__(self, other: Replicates) -> Replicates:
        return Replicates(
            float(apart(np.asarray(self.value), np.asarray(other.value))),
            apart(self.bootstrap, other.bootstrap),
            apart(self.jackknife, other.jackknife),
            min(self.num_units, other.num_units),
            _fewest([self, other]),
        )


@dataclass(frozen=True)
class Interval:
    """An estimate, its interval, the two-sided p-value of 0, its bootstrap standard error, and how it was made."""

    estimate: float
    low: float
    high: float
    p: float
    standard_error: float
    method: str
    note: str


def mean_of(replicates: list[Replicates]) -> Replicates:
    """The mean over seeds, replicate by replicate: units vary, the seeds stay."""
    return Replicates(
        float(np.mean([r.value for r in replicates])),
        np.mean([r.bootstrap for r in replicates], axis=0),
        np.mean([r.jackknife for r in replicates], axis=0),
        min(r.num_units for r in replicates),
        _fewest(replicates),
    )


def _fewest(replicates: list[Replicates]) -> int | None:
    return min((r.num_rarer for r in replicates if r.num_rarer is not None), default=None)


def rare_note(num_rarer: int | None) -> str:
    """What a row says of a class that few units have, or have not."""
    if num_rarer is None or num_rarer >= FEWEST_OF_CLASS:
        return ""
    return f"{num_rarer} units of the rarer class: the interval may be too narrow"


def interval(replicates: Replicates, confidence: float) -> Interval:
    """The BCa interval with the small-sample widening of the normal quantile; percentile where there is no jackknife.

    A statistic whose bootstrap is far off its value (`MOST_SHIFT`) gets the normal interval, and a note.

    The p-value is that of the same interval: the smallest 1 − confidence whose interval leaves out 0.

    Source: Efron, JASA 82:171 (1987), eq. 2.3 and 6.6; widening: Hesterberg, The American Statistician 69:371 (2015), §4.4.
    """
    n, value = replicates.num_units, replicates.value
    known = replicates.bootstrap[np.isfinite(replicates.bootstrap)]
    if not np.isfinite(value):
        return Interval(value, np.nan, np.nan, np.nan, np.nan, "none", "undefined: a class or mask has no test case")
    undefined = len(replicates.bootstrap) - len(known)
    if n < FEWEST_FOR_INTERVAL:
        return Interval(value, np.nan, np.nan, np.nan, np.nan, "none", f"no interval: n = {n}")
    if undefined > MOST_UNDEFINED_FRAC * len(replicates.bootstrap):
        note = f"no interval: undefined in {undefined} of {len(replicates.bootstrap)} resamples"
        return Interval(value, np.nan, np.nan, np.nan, np.nan, "none", note)
    few = f"n below {FEWEST_FOR_MEANS}: the interval may be too narrow" if n < FEWEST_FOR_MEANS else ""
    note = "; ".join(filter(None, [few, rare_note(replicates.num_rarer)]))
    standard_error = float(np.std(known, ddof=1))
    if np.ptp(known) <= ROUNDING * max(1.0, abs(value)):
        p = 1.0 if value == 0 else np.nan
        return Interval(value, np.nan, np.nan, p, 0.0, "none", "no interval: the same value in every resample")
    acceleration = _acceleration(replicates.jackknife)
    method = "percentile" if acceleration is None else "bca"
    shift = 0.0 if acceleration is None else _normal_quantile_of_share(known, value)
    bend = acceleration or 0.0
    half = np.sqrt(n / (n - 1)) * float(stats.t.ppf((1 + confidence) / 2, n - 1))
    if abs(shift) > MOST_SHIFT:
        return _normal(value, standard_error, half, n, float(known.mean()) - value, note)
    low, high = (np.quantile(known, _bca_level(q, shift, bend)) for q in (-half, half))
    p = _p_of_zero(known, shift, bend, n)
    return Interval(value, float(low), float(high), p, standard_error, method, note)


def _normal(value: float, standard_error: float, half: float, n: int, bias: float, note: str) -> Interval:
    p = float(2 * stats.t.sf(abs(value) / standard_error / np.sqrt(n / (n - 1)), n - 1))
    words = f"biased by about {bias:+.3f} at this n: normal interval around the estimate"
    note = f"{note}; {words}" if note else words
    return Interval(value, value - half * standard_error, value + half * standard_error, p, standard_error, "normal", note)


def _bca_level(quantile: float, shift: float, bend: float) -> float:
    inner = shift + quantile
    return float(stats.norm.cdf(shift + inner / max(1 - bend * inner, 1e-12)))


def _p_of_zero(known: Floats, shift: float, bend: float, n: int) -> float:
    """Solve `_bca_level(q) = level whose quantile is 0` for q, then undo the widening."""
    outer = float(stats.norm.ppf(_level_of(known, 0.0))) - shift
    quantile = outer / (1 + bend * outer) - shift if 1 + bend * outer > 0 else np.sign(outer) * np.inf
    return float(min(1.0, 2 * stats.t.sf(abs(quantile) / np.sqrt(n / (n - 1)), n - 1)))


def _level_of(known: Floats, value: float) -> float:
    """The level whose quantile (as `np.quantile` has it, linear between order statistics) is `value`, kept inside (0, 1)."""
    ordered, b = np.sort(known), len(known)
    first, after = int(np.searchsorted(ordered, value, "left")), int(np.searchsorted(ordered, value, "right"))
    if first < after:
        place = (first + after - 1) / 2
    elif 0 < first < b:
        place = first - 1 + float((value - ordered[first - 1]) / (ordered[first] - ordered[first - 1]))
    else:
        place = -1.0 if first == 0 else float(b)
    return float(np.clip(place / (b - 1), 0.5 / (b + 1), (b + 0.5) / (b + 1)))


def _normal_quantile_of_share(known: Floats, value: float) -> float:
    """Normal quantile of the share of replicates below `value`, ties counted half, kept inside (0, 1)."""
    tolerance = 1e-12 * max(1.0, abs(value))
    below = np.sum(known < value - tolerance) + 0.5 * np.sum(np.abs(known - value) <= tolerance)
    b = len(known)
    return float(stats.norm.ppf(np.clip(below / b, 0.5 / (b + 1), (b + 0.5) / (b + 1))))


def _acceleration(jackknife: Floats) -> float | None:
    if len(jackknife) == 0 or not np.isfinite(jackknife).all():
        return None
    away = jackknife.mean() - jackknife
    spread = float((away**2).sum())
    return float((away**3).sum() / (6 * spread**1.5)) if spread > 0 else 0.0
