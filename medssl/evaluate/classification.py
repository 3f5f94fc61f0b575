"""Scores of a classification task under unit weights: every metric, fit and class in one pass over the weights."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from medssl.evaluate.intervals import Replicates
from medssl.evaluate.predictions import MANY, Tested
from medssl.evaluate.sample import ALL, MACRO, EachCase, Sample, Truth

SampleMetric = Callable[[Sample], dict[str, Float64[np.ndarray, "..."]]]
Key = tuple[str, str]
"""A metric and a class."""

WEIGHTS_AT_ONCE = 2_000_000


def score_fit(
    truth: Truth,
    probabilities: Float64[np.ndarray, "..."],
    metrics: dict[str, SampleMetric],
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
        sample = Sample(truth, probabilities, weights[start : start + num_rows, unit])
        for name, metric in metrics.items():
            for label, values in metric(sample).items():
                parts.setdefault((name, label), []).append(values)
    num_units, rarer = weights.shape[1], rarer_units(truth, unit)
    made = {key: Replicates.of(np.concatenate(values), num_bootstrap, num_units) for key, values in parts.items()}
    of_classes = {key: MACRO if key[0] in over_classes else key[1] for key in made}
    return {key: replace(one, num_rarer=rarer.get(of_classes[key])) for key, one in made.items()}


def rarer_units(truth: Truth, unit: Int64[np.ndarray, "n"]) -> dict[str, int]:
    """By class, the smaller of two counts: units with a case of it, and units with a case of the rest; for `macro` the smallest.

    Classes that all cases have, or none, are in no score and are skipped.
    """
    found = {}
    for index in np.flatnonzero(truth.present):
        true = truth.targets[:, index]
        found[truth.classes[index]] = min(len(np.unique(unit[true])), len(np.unique(unit[~true])))
    return found | ({MACRO: min(found.values())} if found else {})


def scores_of_cases(
    truth: Truth, probabilities: Float64[np.ndarray, "..."], metrics: dict[str, SampleMetric]
) -> dict[str, Float64[np.ndarray, "..."]]:
    """By metric, its value for each single case `(n,)`."""
    cases = EachCase(truth, probabilities)
    return {name: metric(cases)[ALL] for name, metric in metrics.items()}


def case_table(
    test: Tested,
    probabilities: dict[str, Float64[np.ndarray, "..."]],
    truth: Truth,
    of_cases: dict[str, dict[str, Float64[np.ndarray, "..."]]],
) -> pd.DataFrame:
    """A row per fit and test case: the prediction, the probability of the truth, the case's own scores.

    of_cases: by fit, see `scores_of_cases`.
    """
    tables = []
    for fit in test.fits.itertuples():
        values = probabilities[str(fit.fit_id)]
        called = truth.called(values)
        table = test.cases.copy()
        for place, name in enumerate(["fit_id", "init", "arm", "mode", "fraction", "seed", "pretrain_seed"]):
            table.insert(place, name, getattr(fit, name))
        table["predicted"] = [MANY.join(truth.classes[index] for index in np.flatnonzero(row)) for row in called]
        if not truth.multilabel:
            table["probability_of_target"] = values[truth.targets]
        table = table.assign(**of_cases[str(fit.fit_id)])
        table["correct"] = (called == truth.targets).all(axis=1)
        tables.append(table)
    return pd.concat(tables, ignore_index=True).astype({"pretrain_seed": "Int64"})


def confusion_table(cases: pd.DataFrame, truth: Truth) -> pd.DataFrame:
    """Confusion counts of predicted and true classes, by arm, mode and fraction: means over fits. Empty for multi-label."""
    rows = []
    for (arm, mode, fraction), part in cases.groupby(["arm", "mode", "fraction"], sort=True):
        num_fits = part["fit_id"].nunique()
        counts = part.groupby(["target", "predicted"]).size()
        for true in () if truth.multilabel else truth.classes:
            for predicted in truth.classes:
                mean = float(counts.get((true, predicted), 0)) / num_fits
                place = {"init": arm, "mode": mode, "fraction": fraction}
                rows.append({**place, "target": true, "predicted": predicted, "num_cases": mean})
    return pd.DataFrame(rows)
