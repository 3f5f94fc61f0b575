"""Results: every score with its interval, n, seeds and method."""

from __future__ import annotations

from typing import Any

import pandas as pd
from markupsafe import Markup

from medssl.artefacts.names import is_scratch
from medssl.report.evidence import Evidence
from medssl.report.parts import is_folded
from medssl.report.section import Section, Table, Text, count, number, percent, records, shown, span
from medssl.report.shares import Labels, distinct, labels_of, ordered_shares, share_name
from medssl.report.words import (
    class_name,
    drawn_over,
    is_overall,
    metric_name,
    mode_name,
    ordered_modes,
    transductive_words,
    units,
)

PLACE = 70
ANSWERS = {
    "CLAIM": {"28": "scores", "32": "scores", "37": "scores", "38": "scores"},
    "TRIPOD+AI": {"21": "scores"},
    "MI-CLAIM": {"4": "scores"},
}


def results(evidence: Evidence) -> Section:
    """A table per task and mode for reading (scores over all classes), and every score folded below them."""
    if not evidence.scores:
        return Section.not_given("Results", "No task was evaluated for this page.")
    blocks: list[Table | Text] = []
    facts: dict[str, list[str]] = {}
    for task, scores in sorted(evidence.scores.items()):
        first = scores.iloc[0]
        labels = labels_of(evidence.fits.get(task), scores)
        n = f"n = {units(int(scores['n'].max()), first['unit'])}, {percent(first['confidence'])} intervals below each score"
        overall = distinct(scores[is_overall(scores)], labels)
        for mode in ordered_modes(scores["mode"]):
            rows = overall[overall["mode"] == mode]
            blocks.append(
                Table(f"results-{task}-{mode}", f"Task {task}, {mode_name(mode)}: {n}.", rows, _wide(rows, labels), head=2)
            )
        blocks.append(
            Table(
                f"scores-{task}",
                f"Task {task}: every score, also by class ({len(scores)} rows)",
                scores.assign(labels=[share_name(share, labels) for share in scores["fraction"]]),
                _long(scores, labels),
                folded=True,
            )
        )
        blocks += [Text(f"Task {task}: {words}.", "note") for words in transductive_words(scores["mode"])]
        notes = {part for note in scores["note"].dropna() for part in str(note).split("; ")}
        facts[task] = sorted(note for note in notes if "below" in note)
        blocks += [Text(f"Task {task}: {note}.", "note") for note in facts[task]]
        fits = evidence.fits.get(task)
        if fits is not None and is_folded(fits):
            blocks.append(_folds(task, fits))
        if task in evidence.empty:
            blocks.append(_empty(task, evidence.empty[task]))
    lead = f"Means over seeds, with intervals over {drawn_over(evidence.scores.values())}. "
    lead += "The full table has the spread over seeds. "
    lead += "The test part was used once, for these scores."
    return Section("Results", lead, tuple(blocks), facts)


def _wide(rows: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """A line per share of labels and arm, a column per score."""
    made = []
    for share in ordered_shares(rows["fraction"]):
        part = rows[rows["fraction"] == share]
        for arm in sorted(set(part["init"]), key=lambda name: (not is_scratch(name), name)):
            cells = {
                metric_name(row["metric"], row.get("options"))
                + ("" if row["class"] in ("macro", "all") else f" ({row['class']})"): _cell(row)
                for row in records(part[part["init"] == arm])
            }
            made.append({"Labels": share_name(share, labels), "Start": arm} | cells)
    return pd.DataFrame(made, dtype=object).fillna("")


def _cell(row: dict[str, float]) -> Markup:
    return Markup("{}<small>{}</small>").format(number(row["estimate"]), span(row["low"], row["high"]))


def _long(scores: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    rows = scores.assign(
        interval=[span(a, b) for a, b in zip(scores["low"], scores["high"], strict=True)],
        score=[metric_name(row["metric"], row.get("options")) for row in records(scores)],
    )
    columns = [
        ("init", "Start", None),
        ("mode", "Mode", mode_name),
        ("fraction", "Labels", lambda share: share_name(share, labels)),
        ("score", "Score", None),
        ("class", "Class", class_name),
        ("estimate", "Estimate", number),
        ("interval", "Interval", None),
        ("n", "n", str),
        ("seed_sd", "SD over seeds", number),
        ("num_seeds", "Seeds", str),
        ("method", "Method", None),
        ("note", "Note", None),
    ]
    return shown(rows, columns)


def _folds(task: str, fits: pd.DataFrame) -> Table:
    """A row per fold: its fits, and the cases that they trained, validated and tested on."""
    numbers = [name for name in ("num_train", "num_val", "num_test") if name in fits]
    rows = fits.groupby("fold").agg(num_fits=("fit_id", "size"), **{name: (name, "max") for name in numbers}).reset_index()
    heads = {"num_train": "Training cases, at most", "num_val": "Validation cases", "num_test": "Test cases"}
    columns: list[tuple[str, str, Any]] = [
        ("fold", "Fold", str),
        ("num_fits", "Fits", count),
        *((name, heads[name], count) for name in numbers),
    ]
    caption = f"Task {task}: {len(rows)}-fold cross-validation; the scores above pool the predictions of all folds."
    return Table(f"folds-{task}", caption, rows, shown(rows, columns))


def _empty(task: str, rows: pd.DataFrame) -> Table:
    columns = [(name, name.replace("_", " ").capitalize(), None) for name in rows.columns]
    caption = f"Task {task}: empty masks. Cases whose masks are both empty are left out of means; "
    caption += "a miss or a false alarm counts as Dice 0."
    return Table(f"empty-{task}", caption, rows, shown(rows, columns), folded=True)
