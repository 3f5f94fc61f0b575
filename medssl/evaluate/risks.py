"""A survival analysis's risks as metrics take them, and the curves of cases with low, middle and high risk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64, Shaped
from scipy import stats

from medssl.artefacts.fits import FOLD
from medssl.artefacts.predictions import RISK, RISK_RANK
from medssl.artefacts.scores import RISK_GROUPS, RISK_LEVELS
from medssl.core.errors import CorruptArtefactError
from medssl.core.label_table import EVENT
from medssl.evaluate.numbers import numbers_of, predicted
from medssl.evaluate.predictions import Tested
from medssl.evaluate.sample import ALL, Bools, Floats, Ints, by_unit, divide

PAIRS_AT_ONCE = 4_000_000
"""Pairs of cases that are in memory together."""


class Followed:
    """`n` cases under `r` reweightings: time, event and risk `(n,)`, weights `(r, n)`.

    median_time: of all events of the test part, the same in every reweighting and subgroup.
    """

    def __init__(
        self,
        times: Float64[np.ndarray, "n"],
        events: Bool[np.ndarray, "n"],
        risks: Float64[np.ndarray, "n"],
        weights: Float64[np.ndarray, "r n"],
        median_time: float,
    ) -> None:
        self.times, self.events, self.risks, self.weights, self.median_time = times, events, risks, weights, median_time

    def share_in_order(
        self,
        firsts: Bool[np.ndarray, "n"],
        others: Callable[[Ints], Bools],
        weights: Float64[np.ndarray, "r n"] | None = None,
    ) -> Float64[np.ndarray, "r"]:
        """Of pairs of a case and another one, the weighted share in which the first has the higher risk; equal risks count half.

        Args:
            firsts: the first cases.
            others: of the places of some first cases `(k,)`, which cases `(k, n)` are their others.
            weights: of the first cases, if not those of the sample.
        """
        right = np.zeros(len(self.weights))
        pairs = np.zeros(len(self.weights))
        of_firsts = self.weights if weights is None else weights
        places = np.flatnonzero(firsts)
        step = max(1, PAIRS_AT_ONCE // max(1, len(self.times)))
        for start in range(0, len(places), step):
            some = places[start : start + step]
            are = others(some)
            higher = np.sign(self.risks[some, None] - self.risks[None]) / 2 + 0.5
            right += ((of_firsts[:, some] @ (are * higher)) * self.weights).sum(axis=1)
            pairs += ((of_firsts[:, some] @ are) * self.weights).sum(axis=1)
        return divide(right, pairs)

    def known_later(self, places: Ints) -> Bools:
        """Of each of some cases with an event, the cases `(k, n)` that are known to have it later: an event comes before a
        censoring at the same time.
        """
        same = self.times[places, None] == self.times[None]
        later: Bools = (self.times[places, None] < self.times[None]) | (same & ~self.events[None])
        return later

    def free_at(self, time: float) -> Callable[[Ints], Bools]:
        """The cases that had no event until a time and were followed beyond it, for any first cases."""
        return lambda places: np.tile(self.times > time, (len(places), 1))


@dataclass(frozen=True)
class Risks:
    """Time and event of each test case `(n,)`, and by fit its risk.

    ranked: the risks are ranks within folds, see `ranks_within`.
    """

    times: Float64[np.ndarray, "n"]
    events: Bool[np.ndarray, "n"]
    by_fit: dict[str, Float64[np.ndarray, "n"]]
    median_time: float
    ranked: bool = False

    @classmethod
    def of(cls, test: Tested) -> Risks:
        """From the table of predictions. The models of several folds have no common scale, so ranks replace their risks.

        Raises:
            CorruptArtefactError: a time, an event or a risk is missing or not a number.
        """
        first = next(iter(test.rows.values()))
        if EVENT not in first or not first[EVENT].isin([0, 1]).all():
            raise CorruptArtefactError(
                f"predictions.parquet needs a column {EVENT!r} of 1 and 0, which a survival analysis has. Run finetune again."
            )
        events: Bools = first[EVENT].to_numpy() == 1
        times = numbers_of(test.cases["target"])
        by_fit = {fit: predicted(part, RISK) for fit, part in test.rows.items()}
        if ranked := FOLD.name in first and first[FOLD.name].nunique() > 1:
            by_fit = {fit: ranks_within(test.rows[fit][FOLD.name].to_numpy(), risks) for fit, risks in by_fit.items()}
        median_time = float(np.median(times[events])) if events.any() else float("nan")
        return cls(times, events, by_fit, median_time, ranked)

    @property
    def rarer_are(self) -> str:
        """The units that `rarer` counts, in words."""
        return "with an event"

    def sample(self, fit: str, weights: Float64[np.ndarray, "r n"]) -> Followed:
        """The cases of a fit under some reweightings."""
        return Followed(self.times, self.events, self.by_fit[fit], weights, self.median_time)

    def each_case(self, fit: str) -> Followed:
        """Not used: no metric of risks is of single cases."""
        return self.sample(fit, np.ones((1, len(self.times))))

    def rarer(self, unit: Int64[np.ndarray, "n"]) -> dict[str, int]:
        """How many units have a case with an event: they carry every score."""
        return {ALL: len(np.unique(unit[self.events]))}

    def within(self, inside: Bool[np.ndarray, "n"]) -> Risks:
        """Only some of the cases."""
        by_fit = {fit: risks[inside] for fit, risks in self.by_fit.items()}
        return Risks(self.times[inside], self.events[inside], by_fit, self.median_time, self.ranked)

    def columns(self, fit: str) -> dict[str, Any]:
        """Columns of cases.parquet: the risk, or its rank, and whether the event happened."""
        return {EVENT: self.events.astype(np.int64), RISK_RANK if self.ranked else RISK: self.by_fit[fit]}


def ranks_within(fold: Shaped[np.ndarray, "n"], risks: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """The rank of each risk among those of its fold, as a share between 0 and 1; equal risks have the mean of their ranks."""
    found = np.empty_like(risks)
    for one in np.unique(fold):
        inside = fold == one
        found[inside] = (stats.rankdata(risks[inside]) - 0.5) / inside.sum()
    return found


def not_censored(
    times: Float64[np.ndarray, "n"], events: Bool[np.ndarray, "n"], weights: Float64[np.ndarray, "r n"]
) -> Float64[np.ndarray, "r n"]:
    """The probability of each case not to be censored before its own time, by Kaplan and Meier's estimate; 1 at the start.

    At equal times events come before censorings.
    """
    order = np.lexsort((~events, times))
    ordered, censored = weights[:, order], ~events[order]
    at_risk = ordered[:, ::-1].cumsum(axis=1)[:, ::-1]
    steps = 1 - divide(ordered * censored, at_risk)
    left = np.cumprod(np.nan_to_num(steps, nan=1.0), axis=1)
    distinct = times[order]
    before = np.concatenate([np.ones((len(weights), 1)), left], axis=1)[:, np.searchsorted(distinct, distinct, side="left")]
    found = np.empty_like(before)
    found[:, order] = before
    return found


# Curves of cases by predicted risk


def curves_table(test: Tested, risks: Risks, confidence: float) -> pd.DataFrame:
    """Kaplan-Meier curves of the cases with low, middle and high risk (tertiles), of each arm, mode and share of labels.

    Risks of several fits are averaged as ranks; for ties see `thirds`. Cases of one patient with the same time count once, with
    their mean risk; if times differ within a patient, cases are not independent, and there is no p-value of the log-rank test.

    Source: Kaplan and Meier, J Am Stat Assoc 53:457 (1958); intervals by log(−log), Kalbfleisch and Prentice (1980), §1.3.
    """
    first, independent = _one_case_of_each_unit(test, risks)
    tables = []
    for (arm, mode, fraction), fits in test.fits.groupby(["arm", "mode", "fraction"], sort=True):
        ranks = np.sum([stats.rankdata(risks.by_fit[fit]) for fit in fits["fit_id"]], axis=0)  # exact, so ties stay ties
        if independent:
            ranks = by_unit(ranks, test.unit, len(test.units))
        group = thirds(ranks)
        numbers, compact = np.unique(group, return_inverse=True)
        if len(numbers) < 2 or len(ranks) < len(RISK_LEVELS):
            continue
        times, events = risks.times[first], risks.events[first]
        p = log_rank(times, events, compact) if independent else float("nan")
        for number in numbers:
            inside, name = group == number, RISK_LEVELS[number]
            curve = kaplan_meier(times[inside], events[inside], confidence)
            counts = {"num_cases": int(inside.sum()), "num_events": int(events[inside].sum())}
            place: dict[str, Any] = {"init": arm, "mode": mode, "fraction": fraction, "group": name, **counts}
            tables.append(curve.assign(**place, p=p, num_fits=len(fits)))
    return pd.concat(tables, ignore_index=True)[RISK_GROUPS.names] if tables else pd.DataFrame()


def thirds(ranks: Float64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """The third of each case by rank, 0 to 2. Equal ranks are all in the third that has most of them, the lower of two.

    So the order of cases decides nothing; many equal ranks make the thirds unequal, or leave one of them without a case.
    """
    ends = np.cumsum([len(part) for part in np.array_split(ranks, len(RISK_LEVELS))])
    return np.searchsorted(ends, stats.rankdata(ranks) - 1, side="right").astype(np.int64)


def kaplan_meier(times: Floats, events: Bools, confidence: float) -> pd.DataFrame:
    """The share without an event: from time 0 a row at each time of an event, and at the last time of all."""
    known = np.unique(times[events])
    at_risk = (times[None] >= known[:, None]).sum(axis=1)
    happened = (times[None, events] == known[:, None]).sum(axis=1)
    survival = np.cumprod(1 - happened / at_risk)
    left = at_risk - happened
    greenwood = np.cumsum(divide(happened.astype(float), (at_risk * left).astype(float)))
    inside = (survival > 0) & (survival < 1)
    log = np.log(np.where(inside, survival, 0.5))
    half = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(greenwood) / np.abs(log)
    low, high = (np.where(inside, np.exp(log * np.exp(sign * half)), np.nan) for sign in (1, -1))
    table = pd.DataFrame({"time": known, "event_free": survival, "low": low, "high": high, "at_risk": at_risk})
    start = pd.DataFrame({"time": [0.0], "event_free": [1.0], "low": [1.0], "high": [1.0], "at_risk": [len(times)]})
    table = pd.concat([start, table], ignore_index=True)
    end = table.iloc[[-1]].assign(time=times.max(), at_risk=int((times == times.max()).sum()))
    return table if table["time"].iloc[-1] == times.max() else pd.concat([table, end], ignore_index=True)


def log_rank(times: Floats, events: Bools, group: Ints) -> float:
    """The p-value of the log-rank test that groups, numbered from 0, have one hazard; missing without an event.

    Source: Mantel, Cancer Chemother Rep 50:163 (1966); several groups: Peto and Peto, J R Stat Soc A 135:185 (1972).
    """
    num_groups = int(group.max()) + 1
    member = np.eye(num_groups)[group]
    difference, covariance = np.zeros(num_groups), np.zeros((num_groups, num_groups))
    for time in np.unique(times[events]):
        at_risk = member[times >= time].sum(axis=0)
        happened = member[events & (times == time)].sum(axis=0)
        total, d = at_risk.sum(), happened.sum()
        share = at_risk / total
        difference += happened - d * share
        if total > 1:
            covariance += d * (total - d) / (total - 1) * (np.diag(share) - np.outer(share, share))
    if num_groups < 2 or not covariance.any():
        return float("nan")
    statistic = float(difference @ np.linalg.pinv(covariance) @ difference)
    return float(stats.chi2.sf(statistic, num_groups - 1))


def _one_case_of_each_unit(test: Tested, risks: Risks) -> tuple[Ints, bool]:
    """A case of each unit if all its cases have one time and event, and True; else all cases, and False."""
    _, first = np.unique(test.unit, return_index=True)
    same = (risks.times == risks.times[first][test.unit]) & (risks.events == risks.events[first][test.unit])
    return (first, True) if same.all() else (np.arange(len(test.unit)), False)
