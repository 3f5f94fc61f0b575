"""The clearest of all comparisons of a task, chosen by rule, with p corrected over everything it was chosen from."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from medssl.artefacts.names import is_scratch
from medssl.report.section import count, counted, records
from medssl.report.words import headline

VERDICT_WORDS = {
    "better": "favour the pre-trained arm",
    "worse": "favour scratch",
    "uncorrected": "are not settled",
    "unclear": "show no clear difference",
    "unknown": "have too few cases to say",
}


def candidates(scores: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of the headline score in all modes and at all shares of labels: those with scratch, else all.

    `p_holm` is corrected over all of them, and `num_compared` is their number, whichever of them a reader is shown.
    """
    if comparisons.empty:
        return comparisons
    metric, label = headline(scores)
    of_score = (comparisons["metric"] == metric) & (comparisons["class"] == label)
    rows = comparisons[of_score & comparisons["method"].str.startswith("bootstrap")]
    with_scratch = rows[rows["b"].map(is_scratch).astype(bool)]
    rows = with_scratch if len(with_scratch) else rows
    return rows.assign(p_holm=rows["p_holm_task"], num_compared=int(rows["p"].notna().sum()))


def clearest(rows: pd.DataFrame) -> dict[str, Any] | None:
    """The comparison with the smallest p, among equals the one that lies most widths of its interval from 0.

    None where none has an interval.
    """
    known = rows.dropna(subset=["low", "high", "p"])
    if known.empty:
        return None
    widths = known["difference"].abs() / (known["high"] - known["low"]).where(known["high"] > known["low"])
    order = known.assign(widths=-widths).sort_values(["p", "widths", "mode", "fraction", "a", "b"], kind="stable")
    return records(order.drop(columns="widths").head(1))[0]


def fewest_draws(rows: pd.DataFrame) -> int:
    """How many draws of the bootstrap can settle so many comparisons: p is never below 1 / (draws + 1)."""
    return math.ceil(int(rows["num_compared"].iloc[0]) / (1 - float(rows["confidence"].iloc[0])))


def counts_in_words(verdicts: pd.Series, rows: pd.DataFrame) -> str:
    """`Of 24 comparisons with scratch in 2 modes at 4 shares of labels, 12 favour pre-training and 12 are not settled.`"""
    found = verdicts.value_counts()
    kind = " with scratch" if is_scratch(str(rows["b"].iloc[0])) else ""
    parts = [
        f"{count(found[verdict])} {_verb(words, int(found[verdict]))}"
        for verdict, words in VERDICT_WORDS.items()
        if verdict in found
    ]
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    places = f"{counted(rows['mode'].nunique(), 'mode')} at {counted(rows['fraction'].nunique(), 'share')} of labels"
    corrected = int(rows["num_compared"].iloc[0])
    return (
        f"Of {counted(len(rows), 'comparison')}{kind} in {places}, {listed}. "
        f"Here p is corrected over {counted(corrected, 'comparison')} (Holm)."
    )


def _verb(words: str, number: int) -> str:
    """The words of one comparison or of several."""
    if number != 1:
        return words
    first, rest = words.split(" ", 1)
    return f"{ {'favour': 'favours', 'are': 'is', 'show': 'shows', 'have': 'has'}[first] } {rest}"
