"""The predictions table, checked: its fits, cases and units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from medssl.artefacts.labels import group_columns
from medssl.artefacts.names import arm_and_seed
from medssl.artefacts.predictions import PROBABILITY, classes_of
from medssl.core.errors import CorruptArtefactError, StudyError, did_you_mean
from medssl.evaluate.sample import Truth

FIT_COLUMNS = ["fit_id", "init", "mode", "fraction", "seed"]
MANY = "|"
"""Separates the classes of a case that has several."""


@dataclass(frozen=True)
class Tested:
    """The test part of a predictions table: the same cases in the same order for every fit.

    fits: a row per fit with its arm and pre-training seed; cases: a row per case; unit `(n,)`: index of each case's unit.
    """

    fits: pd.DataFrame
    cases: pd.DataFrame
    rows: dict[str, pd.DataFrame]
    unit: Int64[np.ndarray, "n"]
    units: list[str]
    unit_kind: str


def only_test(predictions: pd.DataFrame) -> Tested:
    """The rows of split `test`, with every fit over the same cases.

    With cross-validation the rows of all folds are joined: every case is tested once, by the fold that held it out.

    Raises:
        CorruptArtefactError: there is no test case, or two fits differ in their cases.
    """
    rows = predictions[predictions["split"] == "test"]
    if rows.empty:
        raise CorruptArtefactError(
            "predictions.parquet holds no case of split 'test': there is nothing to evaluate. "
            "Give the source a test part (prepare.split.test_frac above 0, or prepare.split.file) and run the study again."
        )
    rows = rows.sort_values(["fit_id", "case_id"], kind="stable")
    by_fit = {str(name): part.reset_index(drop=True) for name, part in rows.groupby("fit_id", sort=True)}
    first_id, first = next(iter(by_fit.items()))
    for fit_id, part in by_fit.items():
        same = all(part[name].fillna("").tolist() == first[name].fillna("").tolist() for name in ("case_id", "target"))
        if part["case_id"].duplicated().any() or not same:
            raise CorruptArtefactError(
                f"fit {fit_id} was not tested on the same cases as fit {first_id} ({len(part)} and {len(first)} rows): "
                "paired comparisons need the same cases once in each fit. Run finetune again."
            )
    fits = rows.drop_duplicates("fit_id")[FIT_COLUMNS].reset_index(drop=True)
    named = [arm_and_seed(init) for init in fits["init"]]
    fits["arm"] = [str(arm) for arm, _ in named]
    given = rows.drop_duplicates("fit_id")["pretrain_seed"] if "pretrain_seed" in rows else [seed for _, seed in named]
    fits["pretrain_seed"] = pd.Series(list(given), dtype="Int64")
    unit, units = pd.factorize(first["unit_id"].astype(str), sort=True)
    kinds = sorted(set(first["unit"].astype(str))) if "unit" in first else ["case"]
    return Tested(
        fits, first[["case_id", "unit_id", "target", *group_columns(first)]], by_fit, unit, list(units), "/".join(kinds)
    )


def truth_of(test: Tested, wanted: str | None, multilabel: bool | None = None, *, sole: bool = True) -> Truth:
    """Classes (the probability columns, in order), targets, and the positive class of a binary task.

    The positive class is the requested one, else the rarer one; also if the requested class is another task's.

    Args:
        test: the test cases.
        wanted: the requested positive class.
        multilabel: whether a case may have several classes or none, as the task was trained; if unknown, targets such
            as `liver|spleen`, or empty ones, mean that it may.
        sole: the requested class can belong to no other task.

    Raises:
        CorruptArtefactError: no or one probability column, or a target without one.
        StudyError: the requested class does not exist, and can belong to no other task.
    """
    first = next(iter(test.rows.values()))
    classes = classes_of(first)
    targets = test.cases["target"].fillna("").astype(str)
    if multilabel is None:
        multilabel = bool((targets.str.contains(MANY, regex=False) | (targets == "")).any())
    sets = [set(target.split(MANY)) - {""} for target in targets]
    unknown = sorted(set().union(*sets) - set(classes))
    if len(classes) < (1 if multilabel else 2) or unknown:
        raise CorruptArtefactError(
            f"predictions.parquet has probabilities of {classes or 'no class'}, and targets {unknown or 'of these'}: "
            "every class needs its column prob_<class>. Run finetune again."
        )
    if wanted is not None and wanted not in classes and sole:
        raise StudyError(f"evaluate.positive: there is no class {wanted!r}.{did_you_mean(wanted, classes)}")
    matrix = np.array([[name in found for name in classes] for found in sets])
    positive = None
    if len(classes) == 2 and not multilabel:
        positive = classes.index(wanted) if wanted in classes else int(matrix[:, 1].sum() < matrix[:, 0].sum())
    return Truth(matrix, classes, positive, multilabel)


def probabilities_of(part: pd.DataFrame, truth: Truth) -> Float64[np.ndarray, "n k"]:
    """Probabilities `(n, k)` of a fit.

    Raises:
        CorruptArtefactError: a value is missing or outside [0, 1], or the classes of a case do not sum to 1.
    """
    values = part[[PROBABILITY + name for name in truth.classes]].to_numpy(np.float64)
    wrong = ~np.isfinite(values).all(axis=1) | (values < -1e-6).any(axis=1) | (values > 1 + 1e-6).any(axis=1)
    if not truth.multilabel:
        wrong |= ~(np.abs(values.sum(axis=1) - 1) <= 1e-3)
    if wrong.any():
        raise CorruptArtefactError(
            f"fit {part['fit_id'].iloc[0]} has {int(wrong.sum())} of {len(part)} test cases whose probabilities are missing, "
            f"outside 0…1 or do not sum to 1 (first: case {part['case_id'].iloc[int(wrong.argmax())]}). Run finetune again."
        )
    return values
