"""The rows of predictions.parquet and splits.parquet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from medssl.artefacts.labels import group_columns
from medssl.artefacts.names import FitId
from medssl.artefacts.predictions import PREDICTED, PROBABILITY
from medssl.core.errors import StudyError
from medssl.core.label_table import EVENT
from medssl.finetune.cases import Cases, several_labels
from medssl.finetune.folds import Division, Divisions


def rows_of(cases: Cases, indices: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """A row per case with its target and class probabilities `(n, classes)`."""
    columns = {PROBABILITY + name: probabilities[:, k].astype(np.float64) for k, name in enumerate(cases.classes)}
    return rows_with(cases, indices, columns)


def rows_with(cases: Cases, indices: np.ndarray, columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A row per case with its target and the columns of what was predicted."""
    table = pd.DataFrame(
        {
            "split": cases.split[indices],
            "case_id": cases.case_id[indices],
            "volume_id": cases.volume_id[indices],
            "unit_id": cases.unit_id[indices],
            "unit": cases.unit[indices],
            "target": cases.label[indices],
        }
    ).astype(object)
    table = table.assign(**{name: values[indices] for name, values in cases.groups.items()})
    return pd.concat([table, pd.DataFrame(dict(columns))], axis=1)


def aggregated(rows: pd.DataFrame, by: Literal["case", "volume", "unit"]) -> pd.DataFrame:
    """Rows averaged over the slices of a volume, or over the images of a unit (patient), whose id becomes the case id.

    Raises:
        StudyError: the cases of one group differ in their label.
    """
    if by != "case":
        name = f"{by}_id"
        labels = ["target", *([EVENT] if EVENT in rows else [])]
        differ = rows.groupby(["split", name])[labels].nunique().max(axis=1)
        if (differ > 1).any():
            raise StudyError(several_labels(int((differ > 1).sum()), len(differ), by))
        kept = ("volume_id", "unit_id", "unit", *labels, *group_columns(rows))
        first = {column: (column, "first") for column in kept if column != name}
        means = {column: (column, "mean") for column in rows.columns if column.startswith(PROBABILITY) or column in PREDICTED}
        rows = rows.groupby(["split", name], sort=True).agg(**first, **means).reset_index()
        rows.insert(1, "case_id", rows[name])
    rows = rows.drop(columns="volume_id").sort_values(["split", "case_id"], kind="stable", ignore_index=True)
    front = ["split", "case_id", "unit_id", "unit", "target", *([EVENT] if EVENT in rows else [])]
    return rows[front + [column for column in rows.columns if column not in front]]


def fit_columns(rows: pd.DataFrame, fit: FitId, fraction: float, num_train: int) -> pd.DataFrame:
    """The rows with columns in front that identify the fit; `fold` if it has one."""
    front: dict[str, Any] = {
        "fit_id": str(replace(fit, fold=None)),
        "init": str(fit.start.arm),
        "pretrain_seed": pd.array([fit.start.seed] * len(rows), dtype="Int64"),
        "mode": fit.mode,
        "fraction": fraction,
        "num_train": num_train,
        "seed": fit.seed,
        **({} if fit.fold is None else {"fold": fit.fold}),
    }
    return pd.concat([pd.DataFrame(front, index=rows.index), rows], axis=1)


def split_rows(divisions: Divisions) -> pd.DataFrame:
    """Each nested training subset's cases, and the validation and test cases; for each fold if there are any."""
    return pd.concat([_of_division(division, divisions) for division in divisions.by_fold.values()], ignore_index=True)


def _of_division(division: Division, divisions: Divisions) -> pd.DataFrame:
    cases, parts = division.cases, []
    subsets = {(seed, divisions.fraction(share)): chosen for (seed, share), chosen in division.subsets.items()}
    for (seed, fraction), chosen in sorted(subsets.items(), key=lambda item: item[0]):
        rank = {unit: position for position, unit in enumerate(division.orders[seed])}
        part = _split_part(cases, chosen)
        part["seed"], part["fraction"], part["rank"] = seed, fraction, part["unit_id"].map(rank)
        parts.append(part.sort_values(["rank", "case_id"], kind="stable"))
    for split in ("val", "test"):
        parts.append(_split_part(cases, cases.where(split)).sort_values("case_id"))
    table = pd.concat(parts, ignore_index=True).astype({"seed": "Int64", "rank": "Int64", "fraction": "float64"})
    return table if division.fold is None else table.assign(fold=division.fold)


def _split_part(cases: Cases, chosen: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "split": cases.split[chosen],
            "case_id": cases.case_id[chosen],
            "unit_id": cases.unit_id[chosen],
            "unit": cases.unit[chosen],
            "label": cases.label[chosen],
        }
    )
