"""The rows of predictions.parquet and splits.parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from medssl.artefacts.labels import group_columns
from medssl.core.errors import StudyError
from medssl.finetune.cases import Cases
from medssl.finetune.plan import Fit

PROBABILITY = "prob_"


def rows_of(cases: Cases, indices: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """A row per case with its target and class probabilities `(n, classes)`."""
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
    columns = {PROBABILITY + name: probabilities[:, k].astype(np.float64) for k, name in enumerate(cases.classes)}
    return pd.concat([table, pd.DataFrame(columns)], axis=1)


def aggregated(rows: pd.DataFrame, by: Literal["case", "volume", "unit"]) -> pd.DataFrame:
    """Rows averaged over the slices of a volume, or over the images of a unit (patient): its id becomes the case id.

    Raises:
        StudyError: the cases of one group differ in their label.
    """
    if by != "case":
        name = f"{by}_id"
        differ = rows.groupby(["split", name])["target"].nunique()
        if (differ > 1).any():
            raise StudyError(
                f"{int((differ > 1).sum())} of {len(differ)} {by}s hold cases of different classes, so they have no class of "
                "their own. Set finetune.<task>.options.aggregate to case."
            )
        kept = ("volume_id", "unit_id", "unit", "target", *group_columns(rows))
        first = {column: (column, "first") for column in kept if column != name}
        means = {column: (column, "mean") for column in rows.columns if column.startswith(PROBABILITY)}
        rows = rows.groupby(["split", name], sort=True).agg(**first, **means).reset_index()
        rows.insert(1, "case_id", rows[name])
    rows = rows.drop(columns="volume_id").sort_values(["split", "case_id"], kind="stable", ignore_index=True)
    front = ["split", "case_id", "unit_id", "unit", "target"]
    return rows[front + [column for column in rows.columns if column not in front]]


def of_fit(rows: pd.DataFrame, fit: Fit, fraction: float, num_train: int) -> pd.DataFrame:
    """The rows with the fit that they are of in front."""
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "fit_id": fit.id,
                    "init": fit.start.name,
                    "pretrain_seed": pd.array([fit.start.pretrain_seed] * len(rows), dtype="Int64"),
                    "mode": fit.mode,
                    "fraction": fraction,
                    "num_train": num_train,
                    "seed": fit.seed,
                },
                index=rows.index,
            ),
            rows,
        ],
        axis=1,
    )


def split_rows(cases: Cases, orders: Mapping[int, Sequence[str]], subsets: dict[tuple[int, float], np.ndarray]) -> pd.DataFrame:
    """Which case was in which nested training subset, and the validation and test cases.

    Args:
        cases: all labelled cases.
        orders: seed → unit ids in the order in which they enter.
        subsets: (seed, fraction) → indices of the training cases.
    """
    parts = []
    for (seed, fraction), chosen in sorted(subsets.items()):
        rank = {unit: position for position, unit in enumerate(orders[seed])}
        part = _split_part(cases, chosen)
        part["seed"], part["fraction"], part["rank"] = seed, fraction, part["unit_id"].map(rank)
        parts.append(part.sort_values(["rank", "case_id"], kind="stable"))
    for split in ("val", "test"):
        parts.append(_split_part(cases, cases.where(split)).sort_values("case_id"))
    table = pd.concat(parts, ignore_index=True)
    return table.astype({"seed": "Int64", "rank": "Int64", "fraction": "float64"})


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
