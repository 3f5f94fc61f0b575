"""Scores of a segmentation task: metrics per case and class, then means under unit weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from medssl.core.errors import CorruptArtefactError
from medssl.evaluate.intervals import Replicates
from medssl.evaluate.sample import MACRO, Floats, Ints, divide
from medssl.evaluate.surface import Pair, pair

Metric = Callable[[Pair], float]


def score_case(
    prediction: np.ndarray, target: np.ndarray, classes: dict[int, str], spacing_mm: tuple[float, ...], metrics: dict[str, Metric]
) -> list[dict[str, object]]:
    """A row per class of one case; `empty` says which of the two masks holds nothing of the class.

    Raises:
        CorruptArtefactError: the masks differ in shape.
    """
    if prediction.shape != target.shape:
        raise CorruptArtefactError(
            f"a predicted mask has shape {prediction.shape} and its target {target.shape}: both must lie on one grid. "
            "Run finetune again."
        )
    rows: list[dict[str, object]] = []
    for value, name in classes.items():
        masks = pair(prediction == value, target == value, spacing_mm)
        rows.append({"class": name, "empty": masks.empty or "neither", **{m: metric(masks) for m, metric in metrics.items()}})
    return rows


def score_fit(
    cases: pd.DataFrame, metrics: list[str], weights: Floats, unit: Ints, num_bootstrap: int
) -> dict[tuple[str, str], Replicates]:
    """Weighted means of each metric and class of one fit over its cases (rows in case order within a class)."""
    num_units = weights.shape[1]
    result = {}
    for metric in metrics:
        by_class = {}
        for name, part in cases.groupby("class", sort=False):
            values = part[metric].to_numpy(np.float64)
            known = np.isfinite(values)
            of_cases = weights[:, unit[known]]
            by_class[str(name)] = divide(of_cases @ values[known], of_cases.sum(axis=1))
        if len(by_class) > 1:
            by_class[MACRO] = np.mean([row for row in by_class.values() if np.isfinite(row[0])], axis=0)
        for name, row in by_class.items():
            result[metric, name] = Replicates.of(np.broadcast_to(row, len(weights)), num_bootstrap, num_units)
    return result


def empty_counts(cases: pd.DataFrame) -> pd.DataFrame:
    """How many masks of each class were empty, by arm, mode and fraction (over all seeds)."""
    counts = cases.groupby(["arm", "mode", "fraction", "class", "empty"]).size().unstack("empty", fill_value=0)
    for name in ("neither", "both", "prediction", "target"):
        counts[name] = counts.get(name, 0)
    named = counts[["neither", "both", "prediction", "target"]].rename(
        columns={"neither": "both_hold", "both": "both_empty", "prediction": "missed", "target": "false_alarm"}
    )
    return named.reset_index().rename(columns={"arm": "init"})
