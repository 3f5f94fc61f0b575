"""An arm's decision about every slice: the reducer's input, how its budget is met, and the table of kept slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Int64

from medssl.core.errors import StudyError
from medssl.reduce.budget import exactly, nearest_threshold
from medssl.reduce.options import ArmOptions
from medssl.reduce.pairs import Pairs, Remembered
from medssl.reduce.ranking import Ranks
from medssl.reduce.slices import LEAK, NO_TWIN, RANK, Decision, Slices
from medssl.reduce.traversals import TRAVERSALS, balanced

BUDGETS = ("threshold", "keep_frac", "match")
WHERE_COLUMNS = ("sample_id", "volume_id", "subject_id", "kind", "index", "position_mm")
"""Columns of the descriptors that identify the slice."""


def in_order(parts: list[pd.DataFrame], sample_ids: pd.Series) -> pd.DataFrame:
    """The descriptors of all shards in the order of the cohort's table.

    Raises:
        StudyError: some slices have none.
    """
    described = pd.concat(parts, ignore_index=True).set_index("sample_id")
    missing = ~sample_ids.isin(described.index)
    if missing.any():
        raise StudyError(f"{int(missing.sum())} training slices have no descriptors. Run `medssl reduce --step describe` again.")
    return described.loc[sample_ids].reset_index()


def slices_of(described: pd.DataFrame, seed: int, **given: Any) -> Slices:
    """The slices of a table of descriptors; `given` are pixels (`plane`) or embeddings (`vectors`)."""
    volume, _ = pd.factorize(described["volume_id"], sort=False)
    return Slices(
        ids=described["sample_id"].to_numpy(dtype=object),
        volume=volume,
        neighbours=(described["kind"] == "volume").to_numpy(dtype=bool),
        columns={name: described[name].to_numpy() for name in described.columns if name not in WHERE_COLUMNS},
        seed=seed,
        **given,
    )


def count_of(options: ArmOptions, num_slices: int, num_matched: int | None) -> int | None:
    """How many slices the budget asks for; None if a threshold or the reducer's own options decide.

    num_matched: how many slices the arm keeps that this one must match.
    """
    if num_matched is not None:
        return min(num_matched, num_slices)
    if options.keep_frac is not None:
        return min(max(round(options.keep_frac * num_slices), 1), num_slices)
    return None


def decide(reducer: Pairs | Ranks, options: ArmOptions, count: int | None) -> tuple[Decision, float | None]:
    """The arm's decision, and its threshold.

    Raises:
        StudyError: the traversal needs a count and there is none, or vectors that the reducer does not have.
    """
    if isinstance(reducer, Ranks):
        return reducer.decide(count, options.threshold), options.threshold
    if options.traversal == "balanced":
        if count is None:
            raise StudyError(
                "traversal 'balanced' shares out a number of slices: give the arm keep_frac or match, not a threshold."
            )
        return balanced(reducer, count), None
    traverse = TRAVERSALS[options.traversal]
    if count is None:
        threshold = reducer.default_threshold if options.threshold is None else options.threshold
        return traverse(reducer, threshold), threshold
    tried = Remembered(reducer) if reducer.costly else reducer
    decision, threshold = nearest_threshold(
        lambda value: traverse(tried, value), count, highest=reducer.max_threshold, whole_steps=reducer.whole_steps
    )
    return exactly(decision, count, reducer.slices), threshold


def in_each_source(
    source: Int[np.ndarray, "n"],
    kept: Bool[np.ndarray, "n"],
    decide_some: Callable[[Int64[np.ndarray, "some"], int], Decision],
) -> Decision:
    """The decision of a control that keeps as many slices of each source as another arm does.

    Else a control would compare two things at once: which slices of a source, and how many of each source. A reduction keeps few
    slices of a volume, and all images that are alone.

    Args:
        source: number of each slice's source.
        kept: what the other arm keeps of the same slices.
        decide_some: the decision about some slices, by position, that keeps a count of them.
    """
    found = Decision.of(np.zeros(len(source), bool), RANK)
    for number in np.unique(source):
        rows = np.flatnonzero(source == number)
        part = decide_some(rows, int(kept[rows].sum()))
        found.keep[rows], found.reason[rows] = part.keep, part.reason
    return found


def with_leaks(decision: Decision, leaked: Bool[np.ndarray, "n"]) -> Decision:
    """Extend a decision about the slices that are not leaks to all slices; `leaked` (n,) bool."""
    if not leaked.any():
        return decision
    clean = np.flatnonzero(~leaked)
    keep, twin = np.zeros(len(leaked), bool), np.full(len(leaked), NO_TWIN)
    distance, reason = np.full(len(leaked), np.nan, np.float32), np.full(len(leaked), LEAK, dtype=object)
    keep[clean], distance[clean], reason[clean] = decision.keep, decision.distance, decision.reason
    twin[clean] = np.where(decision.twin == NO_TWIN, NO_TWIN, clean[decision.twin])
    return Decision(keep, twin, distance, reason)


def keep_table(sample_ids: pd.Series, decision: Decision) -> pd.DataFrame:
    """The rows of keep.parquet, by sample id."""
    ids = sample_ids.to_numpy(dtype=object)
    twin = ids[decision.twin]
    twin[decision.twin == NO_TWIN] = None
    keep = pd.DataFrame(
        {
            "sample_id": _texts(ids),
            "keep": decision.keep,
            "reason": _texts(decision.reason),
            "twin": _texts(twin),
            "distance": decision.distance.astype(np.float32),
        }
    )
    return keep.sort_values("sample_id", ignore_index=True)


def _texts(values: np.ndarray) -> pd.Series:
    return pd.Series(values, dtype=pd.StringDtype("pyarrow", na_value=np.nan))
