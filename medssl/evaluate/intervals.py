"""Bootstrap over units, BCa intervals, and the matching p-value."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from scipy import optimize, special, stats

from medssl.core.rng import rng
from medssl.evaluate.sample import ROUNDING, Floats, rounded_difference

FEWEST_FOR_INTERVAL = 5
MOST_FOR_JACKKNIFE = 2000
FEWEST_OF_CLASS = 20
"""For a class against the rest: with fewer units on one side, intervals cover too little (docs/explanation/evaluate.md)."""
FEWEST_FOR_MEANS = 50
"""Bootstrap intervals of means are reliable from about here (trust.md §7); below, every row says so."""
RARER_CLASS = "of the rarer class"
"""What the fewer units of such a score are."""
MOST_UNDEFINED_FRAC = 0.05
UNDEFINED = "undefined: the test cases lack a class, a mask, values that differ, or times in a known order"
FEWEST_SEEDS = 3
"""The spread of fewer seeds cannot be estimated: the variance of two has one degree of freedom."""
MOST_P = 1 - 1e-6
"""Nearer to 1 the quantile of t is rounding: that of 4 and of 6 degrees of freedom became 0."""
MOST_SHIFT = 1.0
"""Beyond one standard deviation of bias (calibration error in few bins) BCa's correction moves the interval off the estimate."""


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
    """One statistic under `unit_weights`: its value, its bootstrap `(b,)` and its jackknife `(u,)`, which may be empty.

    num_units: how many units have a value, at most `u`.
    num_rarer: if the score contrasts a class with the rest, how many units the rarer side has; rarer: which those are, in words.
    """

    value: float
    bootstrap: Float64[np.ndarray, "b"]
    jackknife: Float64[np.ndarray, "u"]
    num_units: int
    num_rarer: int | None = None
    rarer: str = RARER_CLASS

    @classmethod
    def of(cls, values: Float64[np.ndarray, "r"], num_bootstrap: int, num_units: int) -> Replicates:
        """Split one row per weight `(1 + b + j,)` into its three parts."""
        return cls(float(values[0]), values[1 : 1 + num_bootstrap], values[1 + num_bootstrap :], num_units)

    def __neg__(self) -> Replicates:
        return replace(self, value=-self.value, bootstrap=-self.bootstrap, jackknife=-self.jackknife)

    def __add__(self, other: Replicates) -> Replicates:
        return replace(
            self - other,
            value=self.value + other.value,
            bootstrap=self.bootstrap + other.bootstrap,
            jackknife=self.jackknife + other.jackknife,
        )

    def __sub__(self, other: Replicates) -> Replicates:
        return Replicates(
            float(rounded_difference(np.asarray(self.value), np.asarray(other.value))),
            rounded_difference(self.bootstrap, other.bootstrap),
            rounded_difference(self.jackknife, other.jackknife),
            min(self.num_units, other.num_units),
            _fewest([self, other]),
            self.rarer,
        )


Limits = tuple[float | None, float | None]
"""The smallest and the largest value that a statistic can have; None where it has none."""


@dataclass(frozen=True)
class Spread:
    """The seeds' contribution, of one arm or of two, to the variance of a mean over them.

    variance: of the mean, by the seeds' own spread; of_units: the part of it that the bootstrap of units also contains;
    freedom: degrees of freedom of the variance.
    """

    num: int
    variance: float
    of_units: float
    freedom: float

    def __add__(self, other: Spread) -> Spread:
        """The spread of the difference of two independent arms; degrees of freedom by Welch, Biometrika 34:28 (1947)."""
        variance = self.variance + other.variance
        weights = self.variance**2 / self.freedom + other.variance**2 / other.freedom
        freedom = variance**2 / weights if weights > 0 else self.freedom + other.freedom
        return Spread(min(self.num, other.num), variance, self.of_units + other.of_units, freedom)


@dataclass(frozen=True)
class Interval:
    """An estimate, its interval, the two-sided p-value of 0, its bootstrap standard error over units and the method.

    num_seeds: how many seeds' spread the interval includes.
    """

    estimate: float
    low: float
    high: float
    p: float
    standard_error: float
    method: str
    note: str
    num_seeds: int = 0

    def within(self, limits: Limits) -> Interval:
        """The interval without values that the statistic cannot have, which it covers as often; a note says where it was cut."""
        least, most = limits
        low = self.low if least is None else max(self.low, least)
        high = self.high if most is None else min(self.high, most)
        cuts = [f"{value:g}" for value, cut in ((least, low > self.low), (most, high < self.high)) if cut]
        note = f"interval cut at {' and '.join(cuts)}" if cuts else ""
        return replace(self, low=low, high=high, note="; ".join(filter(None, [self.note, note])))


def mean_of(replicates: list[Replicates]) -> Replicates:
    """The mean over seeds, replicate by replicate: units vary, the seeds are fixed."""
    return Replicates(
        float(np.mean([r.value for r in replicates])),
        np.mean([r.bootstrap for r in replicates], axis=0),
        np.mean([r.jackknife for r in replicates], axis=0),
        min(r.num_units for r in replicates),
        _fewest(replicates),
        replicates[0].rarer,
    )


def _fewest(replicates: list[Replicates]) -> int | None:
    return min((r.num_rarer for r in replicates if r.num_rarer is not None), default=None)


def rare_note(num_rarer: int | None, rarer: str = RARER_CLASS) -> str:
    """The note for a row about a class that few units have, or lack; rarer: these units in words."""
    if num_rarer is None or num_rarer >= FEWEST_OF_CLASS:
        return ""
    return f"{num_rarer} units {rarer}: the interval may be too narrow"


def interval(replicates: Replicates, confidence: float, seeds: Spread | None = None) -> Interval:
    """The BCa interval with the small-sample widening of the normal quantile; percentile without a jackknife.

    A statistic whose bootstrap is far off its value (`MOST_SHIFT`) gets the normal interval, and a note. With `seeds` it includes
    them, see `_Curve.arm`.

    The p-value belongs to the same interval: the smallest 1 − confidence whose interval excludes 0.

    Source: Efron, JASA 82:171 (1987), eq. 2.3 and 6.6; widening: Hesterberg, The American Statistician 69:371 (2015), §4.4.
    """
    n, value = replicates.num_units, replicates.value
    known = replicates.bootstrap[np.isfinite(replicates.bootstrap)]
    if not np.isfinite(value):
        return Interval(value, np.nan, np.nan, np.nan, np.nan, "none", UNDEFINED)
    undefined = len(replicates.bootstrap) - len(known)
    if n < FEWEST_FOR_INTERVAL:
        return Interval(value, np.nan, np.nan, np.nan, np.nan, "none", f"no interval: n = {n}")
    if undefined > MOST_UNDEFINED_FRAC * len(replicates.bootstrap):
        note = f"no interval: undefined in {undefined} of {len(replicates.bootstrap)} resamples"
        return Interval(value, np.nan, np.nan, np.nan, np.nan, "none", note)
    few = f"n below {FEWEST_FOR_MEANS}: the interval may be too narrow" if n < FEWEST_FOR_MEANS else ""
    note = "; ".join(filter(None, [few, rare_note(replicates.num_rarer, replicates.rarer)]))
    standard_error = float(np.std(known, ddof=1))
    if np.ptp(known) <= ROUNDING * max(1.0, abs(value)):
        p = 1.0 if value == 0 else np.nan
        return Interval(value, np.nan, np.nan, p, 0.0, "none", "no interval: the same value in every resample")
    acceleration = _acceleration(replicates.jackknife)
    method = "percentile" if acceleration is None else "bca"
    shift = 0.0 if acceleration is None else _normal_quantile_of_share(known, value)
    if abs(shift) > MOST_SHIFT:
        words = f"biased by about {float(known.mean()) - value:+.3f} at this n: normal interval around the estimate"
        method, note = "normal", f"{note}; {words}" if note else words
    curve = _Curve(value, known, n, standard_error, method, shift, acceleration or 0.0)
    if seeds is None or seeds.variance == 0:
        half = np.sqrt(n / (n - 1)) * float(stats.t.ppf((1 + confidence) / 2, n - 1))
        low, high = (curve.end(quantile) for quantile in (-half, half))
        return Interval(value, low, high, curve.p, standard_error, method, note, 0 if seeds is None else seeds.num)
    low, high = (value + side * curve.arm(side, 1 - confidence, seeds) for side in (-1, 1))
    return Interval(value, low, high, curve.p_with(seeds), standard_error, f"{method}+seeds", note, seeds.num)


@dataclass(frozen=True)
class _Curve:
    """The ends of a statistic's interval over units, by normal quantile."""

    value: float
    known: Floats
    num_units: int
    error: float
    method: str
    shift: float
    bend: float

    def end(self, quantile: float) -> float:
        """The end at a normal quantile that is already widened for small n."""
        if self.method == "normal":
            return self.value + quantile * self.error
        return float(np.quantile(self.known, _bca_level(quantile, self.shift, self.bend)))

    @property
    def p(self) -> float:
        """The smallest level whose interval over units excludes 0."""
        n = self.num_units
        if self.method == "normal":
            return float(2 * stats.t.sf(abs(self.value) / self.error / np.sqrt(n / (n - 1)), n - 1))
        return _p_of_zero(self.known, self.shift, self.bend, n)

    def arm(self, side: int, level: float, seeds: Spread) -> float:
        """How far the interval reaches to one side (−1 or 1) over units and seeds, at `level` = 1 − confidence.

        The arm over units, minus the part that the seeds' own spread already contains, and the standard error over seeds are
        added in quadrature. The quantile of t is the geometric mean of those with `n − 1` and with the seeds' degrees of freedom,
        weighted by their shares of the variance. With three seeds it covers 94.6 to 96.8 %. Satterthwaite's degrees of freedom
        cover 92.2 to 95.1 % and the arithmetic mean (Cochran) 95.0 to 97.2 % (`test_evaluate_seeds.py`).

        Source: quadrature of arms: Zou and Donner, Stat Med 27:1693 (2008); weighted t: Cochran, Biometrics 20:191 (1964).
        """
        n = self.num_units
        widening = np.sqrt(n / (n - 1))
        kept_frac = max(0.0, 1 - seeds.of_units / (widening * self.error) ** 2)
        share = seeds.variance / (seeds.variance + kept_frac * (widening * self.error) ** 2)
        of_units, of_seeds = (float(-special.stdtrit(freedom, level / 2)) for freedom in (n - 1, seeds.freedom))
        reach = max(0.0, side * (self.end(side * widening * of_units) - self.value))
        return float(of_units ** (1 - share) * of_seeds**share * np.sqrt(kept_frac * (reach / of_units) ** 2 + seeds.variance))

    def p_with(self, seeds: Spread) -> float:
        """The smallest level whose interval over units and seeds excludes 0; with `b` resamples at least 1 / (b + 1)."""
        if self.value == 0:
            return 1.0
        side = -1 if self.value > 0 else 1
        least, most = 1 / (len(self.known) + 1), MOST_P

        def beyond(log_level: float) -> float:
            return self.arm(side, float(np.exp(log_level)), seeds) - abs(self.value)

        if beyond(np.log(least)) <= 0:
            return least
        return (
            float(np.exp(optimize.brentq(beyond, np.log(least), np.log(most), xtol=1e-12))) if beyond(np.log(most)) < 0 else 1.0
        )


def _bca_level(quantile: float, shift: float, bend: float) -> float:
    inner = shift + quantile
    return float(special.ndtr(shift + inner / max(1 - bend * inner, 1e-12)))


def _p_of_zero(known: Floats, shift: float, bend: float, n: int) -> float:
    """Solve `_bca_level(q) = level whose quantile is 0` for q, then undo the widening."""
    outer = float(stats.norm.ppf(_level_of(known, 0.0))) - shift
    quantile = outer / (1 + bend * outer) - shift if 1 + bend * outer > 0 else np.sign(outer) * np.inf
    return float(min(1.0, 2 * stats.t.sf(abs(quantile) / np.sqrt(n / (n - 1)), n - 1)))


def _level_of(known: Floats, value: float) -> float:
    """The level whose quantile (as in `np.quantile`, linear between order statistics) is `value`, kept inside (0, 1)."""
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
