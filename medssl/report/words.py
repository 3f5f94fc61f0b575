"""Names that a reader knows for metrics, modes and classes; which score is the headline of a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from medssl.core import plugins
from medssl.report.evidence import Evidence, run_of
from medssl.report.section import counted
from medssl.report.shown_study import ShownChoice, ShownEvaluate

CLASS_ORDER = ("macro", "all")
UNIT = "measured_in"
"""Among the options of a metric: the unit of its values, where that is the unit of the labels."""


def metric_name(metric: str, options: Mapping[str, Any] | None = None) -> str:
    """`AUC` for `auc`, `NSD at 2 mm` for `nsd` with its options, `Mean absolute error (years)` with the unit of the labels.

    A metric that is not in the folder keeps its own name.
    """
    if not plugins.has("metric", metric):
        return metric.replace("_", " ")
    plugin = plugins.find("metric", metric)
    title: str = plugin.constant("TITLE")
    full: str | None = plugin.constant("FULL_TITLE", default=None)
    unit = (options or {}).get(UNIT)
    if unit or not full or not options:
        return f"{title} ({unit})" if unit else title
    lists = {name: one for name, one in options.items() if isinstance(one, (list, tuple))}
    words = {name: ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in one) for name, one in lists.items()}
    return full.format(**{**options, **words})


def title_of(kind: str, name: str) -> str:
    """What a plug-in calls itself on the page, such as `SimCLR`; its own name where it does not say, or is not in its folder."""
    if not plugins.has(kind, name):
        return name
    title: str = plugins.find(kind, name).constant("TITLE", default=name)
    return title


def name_in(table: pd.DataFrame, metric: str) -> str:
    """The name of a metric with the options that a table of scores or comparisons says."""
    given = table.loc[table["metric"] == metric, "options"] if "options" in table else pd.Series(dtype=object)
    return metric_name(metric, next(iter(given), None))


def rarer_kind(metric: str) -> str:
    """What the fewer units of a score are: `of the rarer class`, `with an event`."""
    predicts = plugins.find("metric", metric).constant("PREDICTS") if plugins.has("metric", metric) else ""
    return "with an event" if predicts == "risks" else "of the rarer class"


def class_name(label: str) -> str:
    """`mean over classes` for `macro`, `all cases` for `all`, else the class."""
    return {"macro": "mean over classes", "all": "all cases"}.get(label, label)


def mode_name(mode: str) -> str:
    """`full fine-tuning`, `linear probe`, or the mode's own name: as the task that has it says."""
    titles: dict[str, str] = {}
    for plugin in plugins.all_of("task"):
        titles |= plugin.constant("MODE_TITLES", default={})
    return titles.get(mode, mode)


def is_frozen(mode: str) -> bool:
    """Whether the encoder stays as it was in a mode, as the task that has it says."""
    return any(mode in plugin.constant("FROZEN_MODES", default=[]) for plugin in plugins.all_of("task"))


def ordered_modes(modes: pd.Series) -> list[str]:
    """Modes with the one in front that is asked about first, such as full fine-tuning; transductive ones last."""
    main = {plugin.constant("MAIN_MODE", default=None) for plugin in plugins.all_of("task")}
    return sorted(set(modes), key=lambda mode: (mode not in main, mode in transductive_modes(), mode))


def transductive_words(modes: Iterable[str]) -> list[str]:
    """A sentence for each transductive mode among some: what it means, and which mode predicts each case by itself."""
    return [
        f"{mode_name(mode).capitalize()} predict all test cases together: the prediction of one depends on which others are "
        f"tested. The {mode_name(twin)} predicts each by itself, from the same features and labels"
        for mode, twin in sorted(transductive_modes().items())
        if mode in set(modes)
    ]


def transductive_modes() -> dict[str, str]:
    """Modes whose prediction of a case depends on the other cases, each with the one beside it for which it does not."""
    return {mode: twin for plugin in plugins.all_of("task") for mode, twin in plugin.constant("TRANSDUCTIVE", default={}).items()}


def headline(scores: pd.DataFrame) -> tuple[str, str]:
    """The metric and class that stand for a task: Dice or AUC, over classes where several have a score, else of the one."""
    metric = headline_metric(scores)
    labels = set(scores.loc[scores["metric"] == metric, "class"])
    own = labels - set(CLASS_ORDER)
    label = min(own) if len(own) == 1 else next((name for name in CLASS_ORDER if name in labels), min(labels))
    return metric, label


def headline_metric(scores: pd.DataFrame) -> str:
    """The metric of a table that says of itself that it stands for a task, the one with the smallest number; else its first."""
    places = {plugin.name: plugin.constant("HEADLINE", default=None) for plugin in plugins.all_of("metric")}
    found = [name for name in set(scores["metric"]) if places.get(name) is not None]
    return min(found, key=lambda name: (places[name], name)) if found else str(scores["metric"].iloc[0])


def is_overall(scores: pd.DataFrame) -> pd.Series:
    """The rows that stand for a metric: of its one class (the positive one of two, the one organ), else over all classes."""
    of_class = ~scores["class"].isin(CLASS_ORDER)
    num_classes = scores["class"].where(of_class).groupby(scores["metric"]).transform("nunique")
    has_overall = (~of_class).groupby(scores["metric"]).transform("any")
    return of_class.where((num_classes == 1) | ~has_overall, ~of_class)


def drawn_over(tables: Iterable[pd.DataFrame]) -> str:
    """What the intervals of tables are over: `test cases`, and seeds where they are in all of them or in some."""
    known_of = [table[table["low"].notna()] for table in tables if "seeds_in_interval" in table]
    counts = [table["seeds_in_interval"] > 0 for table in known_of]
    known = pd.concat(counts) if counts else pd.Series(dtype=bool)
    if not known.any():
        return "test cases"
    return "test cases and seeds" if known.all() else "test cases, and over seeds where there are three or more"


def holm_family(options: ShownEvaluate, *, of_shares: bool = True) -> str:
    """Over what Holm's correction ran, by the study's options; of_shares: of comparisons at each share of labels."""
    shares = " and shares of labels" if of_shares else ""
    within = {"arms": f", within a mode{shares.replace('shares', 'share')}", "task": f", in all modes{shares} of a task"}
    asked = ", and over the pairs that the study asks for" if options.compare else ""
    return f"the arms compared with one reference{asked}{within.get(options.holm_over or '', '')}"


def label_use(evidence: Evidence) -> str:
    """`without labels`; if runs of the page read labels or records: which of them, and what they read."""
    recipes = sorted({run_of(run).name for run in evidence.curves} & set(evidence.asked.pretrain))
    reads = {recipe: said for recipe in recipes if (said := _known_to(evidence.asked.pretrain[recipe].objective))}
    if not reads:
        return "without labels"
    those = "; ".join(f"{recipe} reads {said}" for recipe, said in reads.items())
    return f"with labels or records ({those})" if len(reads) == len(recipes) else f"without labels, except in some runs ({those})"


def _known_to(objective: ShownChoice) -> str:
    """What an objective reads of labels and records: `labels (background: healthy), records of age`; empty for most."""
    if not objective.name:
        return ""
    plugin, found = plugins.find("objective", objective.name), []
    option = plugin.constant("LABEL_OPTION", default=None)
    if option is not None and (value := objective.options.get(option)):
        found.append("labels" if value is True else f"labels or sources ({option}: {value})")
    columns = [column for name in plugin.constant("RECORD_OPTIONS", default={}) for column in objective.options.get(name) or ()]
    if columns:
        found.append(f"records of {' and '.join(dict.fromkeys(columns))}")
    return " and ".join(found)


def units(n: int, unit: str) -> str:
    """`550 images`, `1 patient`."""
    return counted(n, unit)
