"""Cases whose label is a number: a measured value, or a time to an event."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from medssl.core.errors import StudyError
from medssl.core.label_numbers import FEWEST_EVENTS, HAPPENED, number_of, plain_number, why_no_event, why_no_number, why_no_time
from medssl.core.label_table import EVENT
from medssl.finetune.cases import require_parts, rows_of_cases
from medssl.finetune.scoring import can_be_ordered

HAS_EVENT = "event"
"""The class of the cases whose event happened: parts and subsets are drawn evenly over it."""


def measured(samples: pd.DataFrame, source: str, *, whole_volumes: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows that a regression can use, a row per case, and their values `(n, 1)`; arguments as in `cases.labelled`.

    Raises:
        StudyError: there are no labels, one is not a number, all training cases have the same, or a part is empty.
    """
    rows = rows_of_cases(samples, source, whole_volumes=whole_volumes, what="labels")
    _refuse(rows, source, [why_no_number(str(label)) for label in rows["label"]])
    require_parts(rows, source)
    rows, values = _as_numbers(rows)
    train = values if "fold" in rows else values[(rows["split"] == "train").to_numpy()]
    if np.ptp(train) == 0:
        raise StudyError(
            f"source {source!r}: all {len(train)} labels to train on are {plain_number(train[0])}, so there is nothing to learn. "
            "Name labels that differ."
        )
    return rows, values[:, None]


def timed(samples: pd.DataFrame, source: str, *, whole_volumes: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows that a survival analysis can use, a row per case, and time and event (1 or 0) `(n, 2)`.

    Raises:
        StudyError: there are no labels or events, a time is not a number above 0, an event neither 0 nor 1, or a part is empty or
            has too few events, or no two cases that can be ordered.
    """
    rows = rows_of_cases(samples, source, whole_volumes=whole_volumes, what="times")
    if EVENT not in rows:
        raise StudyError(
            f"source {source!r} has times and no events: its label table needs a column {EVENT!r} with 1 (it happened) or 0 "
            "(censored)."
        )
    _refuse(rows, source, [why_no_time(str(label)) for label in rows["label"]])
    _refuse(rows, source, [why_no_event(None if pd.isna(event) else str(event)) for event in rows[EVENT]])
    require_parts(rows, source)
    rows, times = _as_numbers(rows)
    followed = np.stack([times, [HAPPENED[event] for event in rows[EVENT]]], axis=1)
    for part in () if "fold" in rows else ("train", "test"):
        _require_events(followed[(rows["split"] == part).to_numpy()], f"source {source!r}, {part} split")
    if "fold" in rows:
        _require_events(followed, f"source {source!r}")
    return rows, followed


def _require_events(followed: np.ndarray, where: str) -> None:
    happened = int(followed[:, 1].sum())
    if happened < FEWEST_EVENTS:
        said = "all of them censored" if happened == 0 else f"with an event in {happened}"
        raise StudyError(
            f"{where}: {len(followed)} cases, {said}; a survival analysis needs {FEWEST_EVENTS} events or more in training and "
            "in test. Follow the cases for longer, or give the part more of them."
        )
    if not can_be_ordered(followed):
        raise StudyError(
            f"{where}: of no two of {len(followed)} cases is it known which had the event first, as none was followed beyond the "
            f"first event, at {plain_number(followed[followed[:, 1] > 0, 0].min())}. Name times that differ, or give the part "
            "more cases."
        )


def _as_numbers(rows: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows with labels in one spelling, and their numbers."""
    numbers = np.array([number_of(str(label)) for label in rows["label"]], dtype=np.float64)
    return rows.assign(label=[plain_number(number) for number in numbers]), numbers


def _refuse(rows: pd.DataFrame, source: str, whys: list[str]) -> None:
    wrong = [place for place, why in enumerate(whys) if why]
    if wrong:
        which = f"{len(wrong)} of {len(rows)} labelled cases, the first {rows['case_id'].iloc[wrong[0]]}"
        raise StudyError(f"source {source!r}: {whys[wrong[0]]} ({which}). Correct the label table, or take another task.")


Reader = Callable[..., tuple[pd.DataFrame, np.ndarray]]
"""`measured` or `timed`."""
