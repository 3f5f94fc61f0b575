"""A classification's probabilities as metrics take them, its cases, and what was taken for what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from medssl.evaluate.intervals import RARER_CLASS
from medssl.evaluate.predictions import MANY
from medssl.evaluate.sample import MACRO, EachCase, Sample, Truth


@dataclass(frozen=True)
class Probabilities:
    """The classes of the test cases, and by fit their probabilities `(n, k)`."""

    truth: Truth
    by_fit: dict[str, Float64[np.ndarray, "..."]]

    @property
    def rarer_are(self) -> str:
        """The units that `rarer` counts, in words."""
        return RARER_CLASS

    def sample(self, fit: str, weights: Float64[np.ndarray, "r n"]) -> Sample:
        """The cases of a fit under some reweightings."""
        return Sample(self.truth, self.by_fit[fit], weights)

    def each_case(self, fit: str) -> EachCase:
        """Every case of a fit as its own sample."""
        return EachCase(self.truth, self.by_fit[fit])

    def rarer(self, unit: Int64[np.ndarray, "n"]) -> dict[str, int]:
        """By class, see `rarer_units`."""
        return rarer_units(self.truth, unit)

    def within(self, inside: Bool[np.ndarray, "n"]) -> Probabilities:
        """Only some of the cases."""
        truth = replace(self.truth, targets=self.truth.targets[inside])
        return Probabilities(truth, {fit: values[inside] for fit, values in self.by_fit.items()})

    def columns(self, fit: str) -> dict[str, Any]:
        """Columns of cases.parquet: the prediction, and the probability of the truth if a case has one class."""
        values, truth = self.by_fit[fit], self.truth
        called = truth.called(values)
        named = [MANY.join(truth.classes[index] for index in np.flatnonzero(row)) for row in called]
        of_target = {} if truth.multilabel else {"probability_of_target": values[truth.targets]}
        return {"predicted": named, **of_target, "correct": (called == truth.targets).all(axis=1)}


def rarer_units(truth: Truth, unit: Int64[np.ndarray, "n"]) -> dict[str, int]:
    """By class, the smaller of two counts: units with a case of it, and units with a case of the rest; for `macro` the smallest.

    Classes that all cases have, or none, are in no score and are skipped.
    """
    found = {}
    for index in np.flatnonzero(truth.present):
        true = truth.targets[:, index]
        found[truth.classes[index]] = min(len(np.unique(unit[true])), len(np.unique(unit[~true])))
    return found | ({MACRO: min(found.values())} if found else {})


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
