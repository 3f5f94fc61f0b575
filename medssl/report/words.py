"""Names that a reader knows for metrics, modes and classes; which score is the headline of a task."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from medssl.core import plugins
from medssl.report.evidence import Evidence
from medssl.report.section import counted

METRICS = {
    "auc": "AUC",
    "average_precision": "Average precision",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "sensitivity_at_specificity": "Sensitivity at fixed specificity",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "HD95 (mm)",
    "nsd": "NSD",
    "volume_error": "Volume error",
}
WITH_OPTIONS = {
    "sensitivity_at_specificity": "Sensitivity at specificity {specificity:g}",
    "calibration_error": "Calibration error ({bins} bins)",
    "hd95": "HD{percentile:g} (mm)",
    "nsd": "NSD at {tolerance_mm:g} mm",
}
"""Names of scores that mean nothing, or another thing, without an option."""

HEADLINES = ("dice", "auc", "accuracy")
CLASS_ORDER = ("macro", "all")


def metric_name(metric: str, options: object = None) -> str:
    """`AUC` for `auc`, `NSD at 2 mm` for `nsd` with its options as JSON; a metric without a known name keeps its own."""
    given = json.loads(options) if isinstance(options, str) else {}
    if given and metric in WITH_OPTIONS:
        return WITH_OPTIONS[metric].format(**given)
    return METRICS.get(metric, metric.replace("_", " "))


def name_in(table: pd.DataFrame, metric: str) -> str:
    """The name of a metric with the options that a table of scores or comparisons says."""
    given = table.loc[table["metric"] == metric, "options"] if "options" in table else pd.Series(dtype=object)
    return metric_name(metric, next(iter(given), None))


def class_name(label: str) -> str:
    """`mean over classes` for `macro`, `all cases` for `all`, else the class."""
    return {"macro": "mean over classes", "all": "all cases"}.get(label, label)


def mode_name(mode: str) -> str:
    """`full fine-tuning`, `linear probe`, or the mode's own name."""
    return {"full": "full fine-tuning", "linear": "linear probe", "knn": "nearest neighbours"}.get(mode, mode)


def ordered_modes(modes: pd.Series) -> list[str]:
    """Modes with the one that is asked about first: full fine-tuning."""
    return sorted(set(modes), key=lambda mode: (mode != "full", mode))


def headline(scores: pd.DataFrame) -> tuple[str, str]:
    """The metric and class that stand for a task: Dice or AUC, over classes where several have a score, else of the one."""
    metric = next((name for name in HEADLINES if name in set(scores["metric"])), str(scores["metric"].iloc[0]))
    labels = set(scores.loc[scores["metric"] == metric, "class"])
    own = labels - set(CLASS_ORDER)
    label = min(own) if len(own) == 1 else next((name for name in CLASS_ORDER if name in labels), min(labels))
    return metric, label


def is_overall(scores: pd.DataFrame) -> pd.Series:
    """The rows that stand for a metric: of its one class (the positive one of two, the one organ), else over all classes."""
    of_class = ~scores["class"].isin(CLASS_ORDER)
    num_classes = scores["class"].where(of_class).groupby(scores["metric"]).transform("nunique")
    has_overall = (~of_class).groupby(scores["metric"]).transform("any")
    return of_class.where((num_classes == 1) | ~has_overall, ~of_class)


def way_of_split(source: str, samples: pd.DataFrame, study: dict[str, Any]) -> str:
    """`by patient`, `by a given list`: how a source was divided; empty where it was not, or the options are not known.

    An image set may name parts of its own, which then stand: no table that the page reads says whether it did.
    """
    whole, own = study.get("prepare", {}), study.get("sources", {}).get(source, {}).get("prepare", {})
    options = whole.get("split", {}) | own.get("split", {})
    if not options or not {"split", "kind", "unit"} <= set(samples) or samples["split"].nunique() < 2:
        return ""
    if options.get("file"):
        return "by a given list"
    found = sorted(set(zip(samples["kind"].astype(str), samples["unit"].astype(str), strict=True)))
    return " and ".join(f"{'as the source names parts, else ' if kind == 'images' else ''}by {unit}" for kind, unit in found)


def holm_family(study: dict[str, Any]) -> str:
    """Over what Holm's correction ran, by the study's options."""
    within = {"arms": ", within a mode and share of labels", "task": ", in all modes and shares of labels of a task"}
    options = study.get("evaluate", {})
    asked = ", and over the pairs that the study asks for" if options.get("compare") else ""
    return f"the arms compared with one reference{asked}{within.get(options.get('holm_over'), '')}"


def but_for_labels(evidence: Evidence) -> str:
    """What follows `without labels`: the runs of the page whose objective is told which images are background; else nothing."""
    recipes = {run.split("/")[-1].partition("-")[0] for run in evidence.curves}
    found = []
    for recipe in sorted(recipes & set(evidence.study.get("pretrain", {}))):
        objective = evidence.study["pretrain"][recipe].get("objective")
        if not isinstance(objective, dict):
            continue
        if option := plugins.find("objective", objective["name"]).constant("LABEL_OPTION", default=None):
            background = objective.get("options", {}).get(option)
            found.append(recipe + (f", background {background}" if background else ""))
    return f" (but which images are background was told by label or source: {'; '.join(found)})" if found else ""


def units(n: int, unit: str) -> str:
    """`550 images`, `1 patient`."""
    return counted(n, unit)
