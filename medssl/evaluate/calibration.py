"""The calibration curve: confidence and accuracy of predictions, by bin of confidence."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medssl.evaluate.predictions import Tested
from medssl.evaluate.sample import Floats, Sample, Truth


def calibration_table(test: Tested, probabilities: dict[str, Floats], truth: Truth, bins: int) -> pd.DataFrame:
    """The calibration curve of each arm, mode and fraction: confidence and accuracy by bin, the cases of all seeds together."""
    rows = []
    for (arm, mode, fraction), fits in test.fits.groupby(["arm", "mode", "fraction"], sort=True):
        sums = np.zeros((3, bins))
        for fit_id in fits["fit_id"]:
            sample = Sample(truth, probabilities[fit_id], np.ones((1, len(test.cases))))
            sums += np.concatenate(binned(sample, bins))
        for place in np.flatnonzero(sums[0]):
            calls, confidence, correct = sums[:, place]
            edges = {"bin_low": place / bins, "bin_high": (place + 1) / bins}
            shares = {"num_cases": int(calls), "confidence": confidence / calls, "accuracy": correct / calls}
            rows.append({"init": arm, "mode": mode, "fraction": fraction, **edges, **shares, "num_fits": len(fits)})
    return pd.DataFrame(rows)


def binned(sample: Sample, bins: int) -> tuple[Floats, Floats, Floats]:
    """Weighted sums `(r, bins)` of predictions, of their confidence and of the correct ones, by confidence in (0, 1/bins], …

    A case is one prediction (its most probable class); a multi-label case is one for each label, at max(p, 1 − p).
    """
    right = sample.called == sample.targets
    if sample.truth.multilabel:
        calls = [(np.maximum(p, 1 - p), ok) for p, ok in zip(sample.probabilities.T, right.T, strict=True)]
    else:
        calls = [(sample.probabilities.max(axis=1), right.all(axis=1))]
    sums = [np.zeros((len(sample.weights), bins)) for _ in range(3)]
    for confidence, correct in calls:
        member = np.eye(bins)[np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)]
        for total, values in zip(sums, (1.0, confidence[:, None], correct[:, None]), strict=True):
            total += sample.weights @ (member * values)
    return sums[0], sums[1], sums[2]
