"""The test cases of one fit under many reweightings: the input of every classification metric.

A bootstrap replicate is a count per patient, a jackknife replicate leaves one patient out, the estimate itself is all
ones. So one pass over `(r, n)` weights gives the estimate, its bootstrap and its jackknife, and every fit scored under the
same weights is paired with every other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

MACRO = "macro"
ALL = "all"
CALLED_FROM = 0.5
ROUNDING = 1e-12
"""Relative to 1 or the numbers themselves: smaller differences come only from the order of sums."""


@dataclass(frozen=True)
class Truth:
    """The truth about the cases: targets `(n, k)`, class names, the positive one of two, whether a case may have several."""

    targets: Bool[np.ndarray, "n k"]
    classes: list[str]
    positive: int | None = None
    multilabel: bool = False

    @property
    def present(self) -> Bool[np.ndarray, "k"]:
        """Mask `(k,)` of the classes that some cases have and some lack."""
        return np.asarray(self.targets.any(axis=0) & ~self.targets.all(axis=0))

    def called(self, probabilities: Float64[np.ndarray, "n k"]) -> Bool[np.ndarray, "n k"]:
        """The classes predicted by the probabilities `(n, k)`: the most probable class, or every class from one half on."""
        if self.multilabel:
            return probabilities >= CALLED_FROM
        return np.eye(len(self.classes), dtype=bool)[probabilities.argmax(axis=1)]


class Sample:
    """`n` cases of `k` classes under `r` reweightings: probabilities `(n, k)`, weights `(r, n)`."""

    def __init__(self, truth: Truth, probabilities: Float64[np.ndarray, "n k"], weights: Float64[np.ndarray, "r n"]) -> None:
        self.truth, self.probabilities, self.weights = truth, probabilities, weights
        self.targets, self.called = truth.targets, truth.called(probabilities)
        self._curves: dict[int, tuple[Floats, Floats]] = {}

    @property
    def scored(self) -> list[int]:
        """The classes that get their own row: the positive one of two, each of several."""
        return [self.truth.positive] if self.truth.positive is not None else list(range(len(self.truth.classes)))

    def total(self, values: Shaped[np.ndarray, "n"]) -> Float64[np.ndarray, "r"]:
        """Weighted sums `(r,)` of one number per case `(n,)`."""
        result: Floats = self.weights @ values.astype(np.float64)
        return result

    def mean(self, values: Shaped[np.ndarray, "n"]) -> Float64[np.ndarray, "r"]:
        """Weighted means `(r,)` of one number per case `(n,)`."""
        return divide(self.total(values), self.weights.sum(axis=1))

    def curve(self, index: int) -> tuple[Float64[np.ndarray, "r thresholds"], Float64[np.ndarray, "r thresholds"]]:
        """True and false positives `(r, t + 1)` of class `index` against the rest, at falling thresholds, from (0, 0)."""
        if index not in self._curves:
            scores = self.probabilities[:, index]
            order = np.argsort(-scores, kind="stable")
            last_of_ties = np.append(np.diff(scores[order]) != 0, True)
            weights = self.weights[:, order]
            both = np.cumsum(weights, axis=1)[:, last_of_ties]
            hits = np.cumsum(weights * self.targets[order, index], axis=1)[:, last_of_ties]
            hits = np.pad(hits, ((0, 0), (1, 0)))
            self._curves[index] = (hits, np.pad(both, ((0, 0), (1, 0))) - hits)
        return self._curves[index]

    def by_class(self, values: dict[int, Float64[np.ndarray, "r"]]) -> dict[str, Float64[np.ndarray, "r"]]:
        """Rows named by class; with several classes also their mean over the classes that some cases have and some lack."""
        rows = {self.truth.classes[index]: row for index, row in values.items() if index in self.scored}
        if len(values) > 1:
            present = [values[index] for index in values if self.truth.present[index]]
            rows[MACRO] = np.mean(present, axis=0) if present else np.full(len(self.weights), np.nan)
        return rows


class EachCase(Sample):
    """Every case as its own sample: sums and means are the cases' own values `(n,)`."""

    def __init__(self, truth: Truth, probabilities: Float64[np.ndarray, "..."]) -> None:
        super().__init__(truth, probabilities, np.ones((1, len(probabilities))))

    def total(self, values: NDArray[np.generic]) -> Float64[np.ndarray, "..."]:
        """Each case's own value."""
        return values.astype(np.float64)

    def mean(self, values: NDArray[np.generic]) -> Float64[np.ndarray, "..."]:
        """Each case's own value."""
        return values.astype(np.float64)


def divide(above: Float64[np.ndarray, "*#shape"], below: Float64[np.ndarray, "*#shape"]) -> Float64[np.ndarray, "*#shape"]:
    """`above / below`, NaN where `below` is 0 (a replicate without any case of a class)."""
    result = np.full(np.broadcast(above, below).shape, np.nan)
    np.divide(above, below, out=result, where=below != 0)
    return result


def rounded_difference(a: Float64[np.ndarray, "*shape"], b: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """`a − b`, but 0 if they differ only by rounding, as the means of nine equal scores and of three do."""
    difference = np.asarray(a - b)
    result: Floats = np.where(np.abs(difference) <= ROUNDING * np.maximum(1.0, np.maximum(np.abs(a), np.abs(b))), 0.0, difference)
    return result


def by_unit(values: Float64[np.ndarray, "n"], unit: Int64[np.ndarray, "n"], num_units: int) -> Float64[np.ndarray, "{num_units}"]:
    """Mean over each unit's cases that have a value `(u,)`; NaN if none has."""
    known = np.isfinite(values)
    sums = np.bincount(unit[known], weights=values[known], minlength=num_units).astype(np.float64)
    return divide(sums, np.bincount(unit[known], minlength=num_units).astype(np.float64))
