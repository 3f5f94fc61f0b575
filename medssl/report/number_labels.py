"""Labels that are numbers, as a page shows them: how many cases have one, and the unit of scores in their unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from medssl.core import plugins
from medssl.core.label_numbers import HAPPENED
from medssl.core.label_table import EVENT
from medssl.report.shown_study import ShownFinetuning, ShownStudy
from medssl.report.words import UNIT

CLASSES, NUMBERS = "classes", ("values", "risks")
"""Kinds of predictions (`PREDICTS` of a task) whose labels are classes, and those whose labels are numbers."""
NUMBER, OUTCOMES = "a number", {True: "event", False: "censored"}
OF_SCORES = ("scores", "comparisons", "falls", "fall_comparisons", "subgroups")


def with_numbers_in_words(found: Mapping[str, dict[str, Any]], study: ShownStudy) -> dict[str, dict[str, pd.DataFrame]]:
    """The tables of `found` (kind → name → table) with words for labels that are numbers, and with the unit of scores."""
    changed: dict[str, dict[str, pd.DataFrame]] = {"samples": dict(found["samples"])}
    for source in number_sources(study) & set(found["samples"]):
        changed["samples"][source] = _in_words(found["samples"][source])
    for kind in OF_SCORES:
        units = {task: options.measured_in for task, options in study.finetune.items()}
        changed[kind] = {task: _with_unit(table, units.get(task, "")) for task, table in found[kind].items()}
    return changed


def number_sources(study: ShownStudy) -> set[str]:
    """The sources whose tasks all read their labels as numbers."""
    kinds: dict[str, set[str]] = {}
    for options in study.finetune.values():
        if plugins.has("task", options.task):
            kinds.setdefault(options.source, set()).add(plugins.find("task", options.task).constant("PREDICTS"))
    return {source for source, of_source in kinds.items() if of_source & set(NUMBERS) and CLASSES not in of_source}


def drawn_evenly_over(options: ShownFinetuning | None) -> str:
    """What subsets of a task's labels were drawn evenly over: `class`, `event`; empty for values."""
    if options is None or not plugins.has("task", options.task):
        return "class"
    return {"values": "", "risks": EVENT}.get(plugins.find("task", options.task).constant("PREDICTS"), "class")


def _in_words(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples with one word for every number, or with what became of the case."""
    words = pd.Series(NUMBER, index=samples.index, dtype=object)
    if EVENT in samples:
        words = samples[EVENT].map({text: OUTCOMES[happened] for text, happened in HAPPENED.items()})
    return samples.assign(label=words.where(samples["label"].notna(), None))


def _with_unit(table: pd.DataFrame, unit: str) -> pd.DataFrame:
    """The rows of metrics whose values have the unit of the labels, with it among their options."""
    if not unit or "options" not in table:
        return table
    has_unit = {name: plugins.find("metric", name).constant("IN_UNITS", default=False) for name in set(table["metric"])}
    options = [
        {**given, UNIT: unit} if has_unit[metric] else given
        for metric, given in zip(table["metric"], table["options"], strict=True)
    ]
    return table.assign(options=pd.Series(options, index=table.index, dtype=object))
