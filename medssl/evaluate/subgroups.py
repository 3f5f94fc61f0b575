"""Scores within subgroups: each value of each `group_<name>` column of the predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Bool

from medssl.artefacts.labels import GROUP, group_columns
from medssl.evaluate.predictions import Tested


def subgroups_of(test: Tested) -> list[tuple[str, str, Bool[np.ndarray, "n"]]]:
    """Column, value and mask over cases `(n,)` of each subgroup, sorted; missing values form the subgroup `n/a`."""
    found = []
    for column in sorted(group_columns(test.cases)):
        values = test.cases[column].astype(object).where(test.cases[column].notna(), "n/a").astype(str)
        found += [(column.removeprefix(GROUP), value, (values == value).to_numpy()) for value in sorted(set(values))]
    return found


def restrict(test: Tested, inside: Bool[np.ndarray, "n"]) -> Tested:
    """The test part with only the cases of a subgroup; inside `(n,)`."""
    cases = test.cases[inside].reset_index(drop=True)
    unit, units = pd.factorize(cases["unit_id"].astype(str), sort=True)
    rows = {fit: part[inside].reset_index(drop=True) for fit, part in test.rows.items()}
    return replace(test, cases=cases, rows=rows, unit=unit, units=list(units))


def in_group(rows: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    """Score rows with their subgroup in front."""
    rows = rows.copy()
    rows.insert(0, "group", column)
    rows.insert(1, "value", value)
    return rows
