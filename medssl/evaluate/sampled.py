"""Predictions of single cases under unit weights: every metric of a fit in one pass over the weights."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from medssl.evaluate.intervals import Replicates
from medssl.evaluate.predictions import Tested
from medssl.evaluate.sample import ALL, MACRO, Floats

CaseMetric = Callable[[Any], dict[str, Float64[np.ndarray, "..."]]]
Key = tuple[str, str]
"""A metric and a class."""

WEIGHTS_AT_ONCE = 2_000_000
FIT_NAMES = ["fit_id", "init", "arm", "mode", "fraction", "seed", "pretrain_seed"]


@runtime_checkable
class Sampled(Protocol):
    """The truth about the test cases and every fit's predictions, in the form that the metrics of a kind of task take."""

    @property
    def rarer_are(self) -> str:
        """The units that `rarer` counts, in words."""

    def sample(self, fit: str, weights: Float64[np.ndarray, "r n"]) -> Any:
        """The cases of a fit under some reweightings."""

    def each_case(self, fit: str) -> Any:
        """Every case of a fit as its own sample: metrics give a value per case `(n,)`."""

    def rarer(self, unit: Int64[np.ndarray, "n"]) -> dict[str, int]:
        """By class, the smaller of two counts: units with a case of it, and units with a case of the rest; `all`: of any row."""

    def columns(self, fit: str) -> dict[str, Any]:
        """What a fit predicted for each case: columns of cases.parquet."""

    def within(self, inside: Bool[np.ndarray, "n"]) -> Sampled:
        """Only some of the cases."""


def scores_of_fit(
    sampled: Sampled,
    fit: str,
    metrics: dict[str, CaseMetric],
    weights: Float64[np.ndarray, "..."],
    unit: Int64[np.ndarray, "n"],
    num_bootstrap: int,
    over_classes: Collection[str] = (),
) -> dict[Key, Replicates]:
    """Each metric and class of one fit, as estimate, bootstrap and jackknife; weights `(1 + b + j, u)`, unit `(n,)`.

    over_classes: metrics without a row for a class that are still means over classes.
    """
    num_rows = max(1, WEIGHTS_AT_ONCE // len(unit))
    parts: dict[Key, list[Float64[np.ndarray, "r"]]] = {}
    for start in range(0, len(weights), num_rows):
        sample = sampled.sample(fit, weights[start : start + num_rows, unit])
        for name, metric in metrics.items():
            for label, values in metric(sample).items():
                parts.setdefault((name, label), []).append(values)
    num_units, rarer = weights.shape[1], sampled.rarer(unit)
    made = {key: Replicates.of(np.concatenate(values), num_bootstrap, num_units) for key, values in parts.items()}
    of_classes = {key: MACRO if key[0] in over_classes else key[1] for key in made}
    return {
        key: replace(one, num_rarer=rarer.get(of_classes[key], rarer.get(ALL)), rarer=sampled.rarer_are)
        for key, one in made.items()
    }


def scores_of_cases(sampled: Sampled, fit: str, metrics: dict[str, CaseMetric]) -> dict[str, Float64[np.ndarray, "..."]]:
    """By metric, its value for each single case `(n,)` of a fit."""
    cases = sampled.each_case(fit)
    return {name: metric(cases)[ALL] for name, metric in metrics.items()}


def case_table(test: Tested, columns: Callable[[str], dict[str, Any]], of_cases: dict[str, dict[str, Floats]]) -> pd.DataFrame:
    """A row per fit and test case: what was predicted, and the case's own scores.

    columns: of a fit, by name. of_cases: by fit, see `scores_of_cases`.
    """
    tables = []
    for fit in test.fits.itertuples():
        table = test.cases.copy()
        for place, name in enumerate(FIT_NAMES):
            table.insert(place, name, getattr(fit, name))
        tables.append(table.assign(**columns(str(fit.fit_id)), **of_cases[str(fit.fit_id)]))
    return pd.concat(tables, ignore_index=True).astype({"pretrain_seed": "Int64"})
