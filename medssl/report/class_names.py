"""Classes by the names that a study file gives them: every table of a page speaks of `liver`, though its labels say `6`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from medssl.report.shown_study import ShownStudy

OF_TASKS = ("scores", "comparisons", "falls", "fall_comparisons", "cases", "confusion", "operating", "subgroups", "empty")
COLUMNS = ("class", "target", "predicted")
BAR = "|"
"""Joins the classes of a case that has several."""


def with_class_names(found: Mapping[str, dict[str, Any]], study: ShownStudy) -> dict[str, dict[str, pd.DataFrame]]:
    """The tables of `found` (kind → name → table) that hold classes which the study names, with those names in place of them."""
    names = {source: options.class_names for source, options in study.sources.items() if options.class_names}
    changed: dict[str, dict[str, pd.DataFrame]] = {"samples": {}, "overlays": {}, **{kind: {} for kind in OF_TASKS}}
    for source, given in names.items():
        if source in found["samples"]:
            changed["samples"][source] = _renamed(found["samples"][source], ("label",), given)
    for task, options in study.finetune.items():
        given = names.get(options.source, {})
        if not given:
            continue
        for kind in OF_TASKS:
            if task in found[kind]:
                changed[kind][task] = _renamed(found[kind][task], COLUMNS, given)
        if task in found["overlays"]:
            table = found["overlays"][task]
            classes = [{value: given.get(name, name) for value, name in row.items()} for row in table["classes"]]
            changed["overlays"][task] = table.assign(classes=pd.Series(classes, index=table.index, dtype=object))
    return {kind: {**found[kind], **tables} for kind, tables in changed.items()}


def _renamed(table: pd.DataFrame, columns: tuple[str, ...], names: Mapping[str, str]) -> pd.DataFrame:
    """A table with other words for classes; of several that are joined by a bar, for each."""

    def rename(value: Any) -> Any:
        return BAR.join(names.get(part, part) for part in value.split(BAR)) if isinstance(value, str) else value

    return table.assign(**{name: table[name].astype(object).map(rename) for name in columns if name in table})
