"""Two studies side by side, from their report.json files: scores, options and software that differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from medssl.report.chart import ForestRow, axis, forest_chart
from medssl.report.drawings import one_chart
from medssl.report.section import Figure, Section, Table, Text, number, records, shown, span
from medssl.report.shares import share_name
from medssl.report.words import class_name, headline_metric, is_overall, metric_name, mode_name

KEYS = ["task", "init", "mode", "fraction", "metric", "class"]
FINER_KEYS = ("options", "labels")
"""Options of the metric, and what a share of labels came to: where both reports have them, scores that differ in one of them (NSD
at 1 and at 2 mm; 5 % of the labels, and more because each class needs one) are not set side by side."""


def comparison(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, Section]]:
    """Sections that put two reports side by side. Scores meet where task, start, mode, labels, metric and class agree."""
    names = (first["title"], second["title"])
    if names[0] == names[1]:
        names = (f"{names[0]} (first)", f"{names[1]} (second)")
    return [
        ("scores", _scores(first, second, names)),
        ("options", _options(first, second)),
        ("versions", _versions(first, second)),
    ]


def _scores(first: dict[str, Any], second: dict[str, Any], names: tuple[str, str]) -> Section:
    both = score_pairs(first, second)
    if both.empty:
        return Section.not_given("Scores", "The two studies share no task, start and score.")
    overall = both[is_overall(both)]
    columns = [
        ("task", "Task", None),
        ("init", "Start", None),
        ("labels", "Labels", None),
        ("score", "Score", None),
        ("text_a", names[0], None),
        ("text_b", names[1], None),
    ]
    blocks = (
        _forest(overall, names),
        Table("overall", "Scores over all classes.", overall, shown(_worded(overall), columns), head=2),
        Table(
            "all", f"Every score that both studies have ({len(both)})", both, shown(_worded(both), columns), folded=True, head=2
        ),
        Text(
            "The two studies are not paired: intervals that do not overlap differ; overlapping ones may still differ. Where both "
            "were tested on the same cases, evaluate them in one study for a paired test.",
            "note",
        ),
    )
    return Section("Scores", f"{names[0]} and {names[1]}, where they measured the same thing.", blocks)


def score_pairs(first: dict[str, Any], second: dict[str, Any]) -> pd.DataFrame:
    """A row per score that both reports have: estimate, low, high and n of each."""
    tables = [pd.DataFrame(list(_rows(report))) for report in (first, second)]
    if any(table.empty for table in tables):
        return pd.DataFrame(columns=KEYS)
    keys = [*KEYS, *(name for name in FINER_KEYS if all(name in table for table in tables))]
    wanted = [*keys, "estimate", "low", "high", "n"]
    merged: pd.DataFrame = tables[0][wanted].merge(tables[1][wanted], on=keys, suffixes=("_a", "_b"))
    return merged


def _rows(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, rows in report["sections"].get("results", {}).get("tables", {}).items():
        if name.startswith("scores-"):
            yield from ({"task": name.removeprefix("scores-"), **row} for row in rows)


def _worded(rows: pd.DataFrame) -> pd.DataFrame:
    made = rows.assign(
        labels=[f"{_share(row)}, {mode_name(row['mode'])}" for row in records(rows)],
        score=[f"{metric_name(row['metric'], _options_of(row))} ({class_name(row['class'])})" for row in records(rows)],
    )
    for side in ("a", "b"):
        made[f"text_{side}"] = [
            f"{number(row[f'estimate_{side}'])} ({span(row[f'low_{side}'], row[f'high_{side}'])})" for row in records(rows)
        ]
    return made


def _options_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """Options of a metric, which a report.json holds as the text of JSON; older ones have none."""
    text = row.get("options")
    return json.loads(text) if isinstance(text, str) else None


def _forest(rows: pd.DataFrame, names: tuple[str, str]) -> Figure:
    metric = headline_metric(rows)
    part = rows[rows["metric"] == metric]
    part = part[part["mode"] == part["mode"].iloc[0]]
    drawn = []
    for row in records(part):
        for side, tone in (("a", "ref"), ("b", "c0")):
            estimate, low, high = (_float(row[f"{name}_{side}"]) for name in ("estimate", "low", "high"))
            label = f"{row['task']}: {row['init']}, {_share(row)}" if side == "a" else ""
            drawn.append(ForestRow(label, tone, estimate, low, high, f"{number(estimate)} ({span(low, high)})"))
    named = metric_name(metric, _options_of(records(part)[0]))
    x = axis(named, [v for d in drawn for v in (d.estimate, d.low, d.high)], num_ticks=4)
    caption = f"{named} with intervals, {mode_name(str(part['mode'].iloc[0]))}."
    body = forest_chart(drawn, x, alt=caption, zero=None, label_width=240)
    return Figure("forest", caption, caption, one_chart(body), part, (("ref", names[0]), ("c0", names[1])))


def _share(row: dict[str, Any]) -> str:
    return str(row.get("labels") or share_name(row["fraction"]))


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _options(first: dict[str, Any], second: dict[str, Any]) -> Section:
    flat = [dict(_flat(report.get("study") or {})) for report in (first, second)]
    rows = [
        {"option": key, "first": str(flat[0].get(key, "n/a")), "second": str(flat[1].get(key, "n/a"))}
        for key in sorted(set(flat[0]) | set(flat[1]))
        if flat[0].get(key) != flat[1].get(key)
    ]
    return _differences("Options", "options", rows, "option", "Option")


def _versions(first: dict[str, Any], second: dict[str, Any]) -> Section:
    sides = []
    for report in (first, second):
        table = report["sections"].get("provenance", {}).get("tables", {}).get("versions", [])
        sides.append({row["what"]: row["version"] for row in table})
    rows = [
        {"package": key, "first": sides[0].get(key, "n/a"), "second": sides[1].get(key, "n/a")}
        for key in sorted(set(sides[0]) | set(sides[1]))
        if sides[0].get(key) != sides[1].get(key)
    ]
    return _differences("Software", "versions", rows, "package", "Package")


def _differences(title: str, name: str, rows: list[dict[str, str]], column: str, heading: str) -> Section:
    if not rows:
        return Section(title, "No difference.")
    table = pd.DataFrame(rows)
    columns = [(column, heading, None), ("first", "First", None), ("second", "Second", None)]
    return Section(title, "What differs.", (Table(name, f"{title} that differ.", table, shown(table, columns)),))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
