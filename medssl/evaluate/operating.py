"""Operating points of a classification: ROC and precision-recall curves, mean over fits, with a band over units."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64

from medssl.artefacts.scores import PRECISION_RECALL, ROC
from medssl.evaluate.predictions import Tested
from medssl.evaluate.sample import MACRO, Floats, Sample, Truth

GRID = np.linspace(0, 1, 51)
"""Where curves are read: false-positive rates, and recalls."""
DRAWS = 200
"""Draws of units that a band is made from, at most: its ends are seen, not tested."""
ROUNDING = 1e-9
ROOM = 2.0
"""Between rows that are read as one, more than the length of a grid."""


def operating_table(
    test: Tested,
    probabilities: dict[str, Floats],
    truth: Truth,
    weights: Float64[np.ndarray, "r units"],
    num_bootstrap: int,
    confidence: float,
) -> pd.DataFrame:
    """Both curves of each arm and mode with the most labels, by class, and their mean over classes where there are several.

    weights: of units, see `intervals.unit_weights`. The band holds each point by itself with this confidence.
    """
    most = max(test.fits["fraction"], key=lambda share: (share <= 1, share))
    used = weights[: 1 + min(DRAWS, num_bootstrap)][:, test.unit]
    rows = []
    for (arm, mode), fits in test.fits[test.fits["fraction"] == most].groupby(["arm", "mode"], sort=True):
        samples = [Sample(truth, probabilities[fit], used) for fit in fits["fit_id"]]
        place = {"init": arm, "mode": mode, "fraction": most, "num_fits": len(fits)}
        for curve, read in ((ROC, sensitivities), (PRECISION_RECALL, precisions)):
            by_class = {
                truth.classes[index]: np.mean([read(sample, index) for sample in samples], axis=0)
                for index in samples[0].scored
                if truth.present[index]
            }
            if len(samples[0].scored) > 1 and by_class:
                by_class[MACRO] = np.mean(list(by_class.values()), axis=0)
            for label, values in by_class.items():
                rows.append(pd.DataFrame({**place, "class": label, "curve": curve, "x": GRID, **_band(values, confidence)}))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def sensitivities(sample: Sample, index: int) -> Float64[np.ndarray, "r grid"]:
    """The sensitivity at each false-positive rate of the grid, of class `index` against the rest; NaN without both.

    Between two thresholds the curve is a straight line, so that ties count half, as in the area under it.

    Source: Fawcett, Pattern Recognition Letters 27:861 (2006), §8, algorithm 3 (vertical averaging).
    """
    hits, false_alarms = sample.curve(index)
    known = (hits[:, -1] > 0) & (false_alarms[:, -1] > 0)
    rates, found = _shares(false_alarms), _shares(hits)
    apart = ROOM * np.arange(len(hits))[:, None]  # all rows as one rising curve, each in a room of its own
    read = np.interp((GRID + apart).ravel(), (rates + apart).ravel(), found.ravel()).reshape(len(hits), -1)
    return np.where(known[:, None], read, np.nan)


def precisions(sample: Sample, index: int) -> Float64[np.ndarray, "r grid"]:
    """The precision at each recall of the grid: that of the highest threshold that reaches it; NaN without a case of the class.

    Source: the steps of Davis and Goadrich, ICML 2006, without interpolation.
    """
    hits, false_alarms = (counts[:, 1:] for counts in sample.curve(index))
    called = hits + false_alarms
    precision = np.divide(hits, called, out=np.ones_like(hits), where=called > 0)
    first = np.argmax(called > 0, axis=1)[:, None]  # a draw without the cases of a threshold predicts no positive there
    rows = np.arange(len(hits))[:, None]
    reached = np.searchsorted((_shares(hits) + ROOM * rows).ravel(), (GRID - ROUNDING + ROOM * rows).ravel())
    reached = np.minimum(reached.reshape(len(hits), -1) - hits.shape[1] * rows, hits.shape[1] - 1)
    return np.where(hits[:, -1:] > 0, precision[rows, np.maximum(reached, first)], np.nan)


def _shares(counts: Float64[np.ndarray, "r thresholds"]) -> Float64[np.ndarray, "r thresholds"]:
    """Counts as shares of the last one of their row; 0 where that is none."""
    return np.divide(counts, counts[:, -1:], out=np.zeros_like(counts), where=counts[:, -1:] > 0)


def _band(values: Float64[np.ndarray, "r grid"], confidence: float) -> dict[str, Floats]:
    """The curve itself, and the middle `confidence` of its draws at each point."""
    tail = (1 - confidence) / 2
    known = values[1:][np.isfinite(values[1:]).all(axis=1)]
    low, high = np.quantile(known, [tail, 1 - tail], axis=0) if len(known) else np.full((2, len(GRID)), np.nan)
    return {"y": values[0], "low": np.minimum(low, values[0]), "high": np.maximum(high, values[0])}
