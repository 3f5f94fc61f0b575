"""Names that a reader knows for metrics, shares of labels and classes; which score is the headline of a task."""

from __future__ import annotations

import pandas as pd

from medssl.report.section import counted, percent

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
HEADLINES = ("dice", "auc", "accuracy")
CLASS_ORDER = ("macro", "all")


def metric_name(metric: str) -> str:
    """`AUC` for `auc`; a metric without a known name keeps its own."""
    return METRICS.get(metric, metric.replace("_", " "))


def class_name(label: str) -> str:
    """`mean over classes` for `macro`, `all cases` for `all`, else the class."""
    return {"macro": "mean over classes", "all": "all cases"}.get(label, label)


def share_name(fraction: float) -> str:
    """`5 %` of the labels, or `40 cases` where a count was asked for."""
    return percent(fraction) if fraction <= 1 else f"{fraction:.0f} cases"


def share_words(fraction: float) -> str:
    """`With 5 % of the labels`, `With all labels`, `With 40 labelled cases`."""
    if fraction == 1:
        return "With all labels"
    return f"With {percent(fraction)} of the labels" if fraction < 1 else f"With {fraction:.0f} labelled cases"


def mode_name(mode: str) -> str:
    """`full fine-tuning`, `linear probe`, or the mode's own name."""
    return {"full": "full fine-tuning", "linear": "linear probe", "knn": "nearest neighbours"}.get(mode, mode)


def ordered_modes(modes: pd.Series) -> list[str]:
    """Modes with the one that is asked about first: full fine-tuning."""
    return sorted(set(modes), key=lambda mode: (mode != "full", mode))


def ordered_shares(fractions: pd.Series) -> list[float]:
    """Shares from few labels to all: counts, then fractions."""
    return sorted(set(fractions), key=lambda share: (share <= 1, share))


def headline(scores: pd.DataFrame) -> tuple[str, str]:
    """The metric and class that stand for a task: Dice or AUC, over classes where there are several."""
    metric = next((name for name in HEADLINES if name in set(scores["metric"])), str(scores["metric"].iloc[0]))
    labels = set(scores.loc[scores["metric"] == metric, "class"])
    label = next((name for name in CLASS_ORDER if name in labels), min(labels))
    return metric, label


def units(n: int, unit: str) -> str:
    """`550 images`, `1 patient`."""
    return counted(n, unit)
