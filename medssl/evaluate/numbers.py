"""A regression's values as metrics take them, and the line of true against predicted values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64, Shaped

from medssl.artefacts.predictions import VALUE
from medssl.core.errors import CorruptArtefactError
from medssl.core.label_numbers import number_of
from medssl.evaluate.intervals import RARER_CLASS
from medssl.evaluate.predictions import Tested
from medssl.evaluate.sample import Floats, divide

MOST_BINS, CASES_OF_BIN = 10, 5
"""Bins of the calibration plot at most, and cases that each has at least if there are so many."""


class Measured:
    """`n` cases under `r` reweightings: true and predicted values `(n,)`, weights `(r, n)`."""

    def __init__(
        self, targets: Float64[np.ndarray, "n"], values: Float64[np.ndarray, "n"], weights: Float64[np.ndarray, "r n"]
    ) -> None:
        self.targets, self.values, self.weights = targets, values, weights

    def mean(self, values: Shaped[np.ndarray, "n"]) -> Float64[np.ndarray, "..."]:
        """Weighted means `(r,)` of one number per case `(n,)`."""
        return divide(self.weights @ values, self.weights.sum(axis=1))


class EachMeasured(Measured):
    """Every case as its own sample: means are the cases' own values `(n,)`."""

    def mean(self, values: Shaped[np.ndarray, "n"]) -> Float64[np.ndarray, "..."]:
        """Each case's own value."""
        return values


@dataclass(frozen=True)
class Values:
    """The true value of each test case `(n,)`, and by fit the predicted ones."""

    targets: Float64[np.ndarray, "n"]
    by_fit: dict[str, Float64[np.ndarray, "n"]]

    @classmethod
    def of(cls, test: Tested) -> Values:
        """From the table of predictions.

        Raises:
            CorruptArtefactError: a target or a prediction is missing or not a number.
        """
        return cls(numbers_of(test.cases["target"]), {fit: predicted(part, VALUE) for fit, part in test.rows.items()})

    @property
    def rarer_are(self) -> str:
        """The units that `rarer` counts, in words."""
        return RARER_CLASS

    def sample(self, fit: str, weights: Float64[np.ndarray, "r n"]) -> Measured:
        """The cases of a fit under some reweightings."""
        return Measured(self.targets, self.by_fit[fit], weights)

    def each_case(self, fit: str) -> EachMeasured:
        """Every case of a fit as its own sample."""
        return EachMeasured(self.targets, self.by_fit[fit], np.ones((1, len(self.targets))))

    def rarer(self, unit: Int64[np.ndarray, "n"]) -> dict[str, int]:
        """Empty: there is no class."""
        return {}

    def within(self, inside: Bool[np.ndarray, "n"]) -> Values:
        """Only some of the cases."""
        return Values(self.targets[inside], {fit: values[inside] for fit, values in self.by_fit.items()})

    def columns(self, fit: str) -> dict[str, Any]:
        """Columns of cases.parquet: the value, and the same in few digits to read."""
        return {"predicted": [f"{value:.4g}" for value in self.by_fit[fit]], VALUE: self.by_fit[fit]}


def agreement_table(test: Tested, values: Values) -> pd.DataFrame:
    """Mean true and predicted values by bins of equally many cases, the cases of all seeds together; and the line through them.

    The line is that of the true values over the predicted ones by least squares: slope 1 and intercept 0 if predictions are
    right on average everywhere. Slope and intercept are means over fits; missing if a fit predicts one value alone.

    Source: Van Calster et al., J Clin Epidemiol 74:167 (2016), for the slope and the intercept.
    """
    rows = []
    for (arm, mode, fraction), fits in test.fits.groupby(["arm", "mode", "fraction"], sort=True):
        said = [values.by_fit[fit] for fit in fits["fit_id"]]
        slope, intercept = np.mean([_line(one, values.targets) for one in said], axis=0)
        predictions, targets = np.concatenate(said), np.tile(values.targets, len(said))
        order = np.argsort(predictions, kind="stable")
        num_bins = int(np.clip(len(values.targets) // CASES_OF_BIN, 1, MOST_BINS))
        for place, chosen in enumerate(np.array_split(order, num_bins), start=1):
            means = {"value": float(predictions[chosen].mean()), "target": float(targets[chosen].mean())}
            where = {"init": arm, "mode": mode, "fraction": fraction, "bin": place, "num_cases": len(chosen)}
            rows.append(where | means | {"slope": slope, "intercept": intercept, "num_fits": len(fits)})
    return pd.DataFrame(rows)


def _line(values: Floats, targets: Floats) -> tuple[float, float]:
    """Slope and intercept of the targets over the values."""
    spread = values - values.mean()
    if not np.ptp(values):
        return float("nan"), float("nan")
    slope = float(spread @ (targets - targets.mean()) / (spread @ spread))
    return slope, float(targets.mean() - slope * values.mean())


def numbers_of(targets: pd.Series) -> Float64[np.ndarray, "n"]:
    """The targets of cases as numbers.

    Raises:
        CorruptArtefactError: one is not a number.
    """
    found = [None if pd.isna(text) else number_of(str(text)) for text in targets]
    if None in found:
        place = found.index(None)
        raise CorruptArtefactError(
            f"predictions.parquet: the target {targets.iloc[place]!r} is not a number, which its task predicts. "
            "Run finetune again."
        )
    return np.array(found, dtype=np.float64)


def predicted(part: pd.DataFrame, column: str) -> Float64[np.ndarray, "n"]:
    """A column of numbers that a fit predicted.

    Raises:
        CorruptArtefactError: it is missing, or one of them is missing or not finite.
    """
    if column not in part:
        raise CorruptArtefactError(f"predictions.parquet has no column {column!r}, which its task predicts. Run finetune again.")
    values: Float64[np.ndarray, "n"] = part[column].to_numpy(np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise CorruptArtefactError(
            f"fit {part['fit_id'].iloc[0]} has {int(wrong.sum())} of {len(part)} test cases without a finite {column} (first: "
            f"case {part['case_id'].iloc[int(wrong.argmax())]}). Run finetune again."
        )
    return values
