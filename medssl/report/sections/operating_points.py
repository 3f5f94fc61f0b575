"""ROC and precision-recall: what every threshold would give."""

from __future__ import annotations

import numpy as np
import pandas as pd
from markupsafe import Markup

from medssl.artefacts.names import is_scratch
from medssl.artefacts.scores import PRECISION_RECALL, ROC
from medssl.report.chart import Line, axis, line_chart
from medssl.report.class_colours import PALETTE, class_tones, in_number_order
from medssl.report.drawings import Charts
from medssl.report.evidence import Evidence, tones
from medssl.report.section import Figure, Section, percent
from medssl.report.shares import labels_of, share_phrase
from medssl.report.words import CLASS_ORDER, class_name, is_overall, mode_name, ordered_modes

PLACE = 85
WORDS = {
    ROC: ("ROC", "1 − specificity", "Sensitivity"),
    PRECISION_RECALL: ("Precision-recall", "Recall (sensitivity)", "Precision"),
}


def operating_points(evidence: Evidence) -> Section:
    """Both curves of every arm with their bands, in the first mode; then of one arm for each class."""
    if not evidence.operating:
        return Section.not_given("ROC and precision-recall", "No classification was evaluated for this page.")
    figures: list[Figure] = []
    confidences: set[float] = set()
    for task, table in sorted(evidence.operating.items()):
        mode = ordered_modes(table["mode"])[0]
        rows = table[table["mode"] == mode]
        share = share_phrase(float(rows["fraction"].iloc[0]), labels_of(evidence.fits.get(task), evidence.scores.get(task)))
        confidences |= _confidence(evidence, task)
        figures.append(_of_arms(task, rows, f"{mode_name(mode)}, {share}"))
        if (by_class := _of_classes(evidence, task, rows, f"{mode_name(mode)}, {share}")) is not None:
            figures.append(by_class)
    level = f"{' and '.join(percent(one) for one in sorted(confidences))} " if confidences else ""
    lead = (
        f"Each class against the rest, with the most labels. Bands are {level}intervals over test cases at each point by itself, "
        "not of the whole curve."
    )
    return Section("ROC and precision-recall", lead, tuple(figures), {"confidences": sorted(confidences)})


def _confidence(evidence: Evidence, task: str) -> set[float]:
    """Of the task's intervals, where there are some."""
    scores = evidence.scores.get(task, pd.DataFrame({"confidence": []}))
    return set(scores["confidence"].astype(float))


def _of_arms(task: str, rows: pd.DataFrame, setting: str) -> Figure:
    """All arms of the positive class, or of the mean over classes."""
    overall = rows[is_overall(rows.assign(metric=rows["curve"]))]
    colour = {arm: tone for arm, tone in tones(sorted(set(overall["init"]))).items() if arm in set(overall["init"])}
    lines = {arm: (tone, overall[overall["init"] == arm]) for arm, tone in colour.items()}
    caption = f"Task {task}, {class_name(str(overall['class'].iloc[0]))}: mean over fits of {setting}. The dashed line is chance."
    legend = tuple((tone, arm) for arm, tone in colour.items())
    return Figure(f"roc-{task}", caption, caption, _charts(lines, caption, bands=True), overall, legend)


def _of_classes(evidence: Evidence, task: str, rows: pd.DataFrame, setting: str) -> Figure | None:
    """The classes of the first pre-trained arm, of many those that are hardest; nothing where there is one class alone."""
    arm = min(set(rows["init"]), key=lambda name: (is_scratch(name), name))
    part = rows[(rows["init"] == arm) & ~rows["class"].isin(CLASS_ORDER)]
    labels = sorted(set(part["class"]), key=in_number_order)
    if len(labels) < 2:
        return None
    which, colours = "each class", class_tones(evidence)
    if len(labels) > len(PALETTE):
        which = f"{len(PALETTE)} of {len(labels)} classes, those with the smallest area under the ROC curve"
        labels = sorted(hardest(part, len(PALETTE)), key=in_number_order)
        part = part[part["class"].isin(labels)]
        colours = {label: f"k{place}" for place, label in enumerate(labels)}  # a page has no more colours than these
    lines = {label: (colours.get(label, "ref"), part[part["class"] == label]) for label in labels}
    caption = f"Task {task}: the curves of {which}, of {arm}, {setting}."
    legend = tuple((tone, label) for label, (tone, _) in lines.items())
    return Figure(f"roc-{task}-classes", caption, caption, _charts(lines, caption, bands=False), part, legend)


def hardest(rows: pd.DataFrame, number: int) -> list[str]:
    """The classes with the smallest area under their ROC curve."""
    areas = {
        str(label): float(np.trapezoid(one["y"].astype(float), one["x"].astype(float)))
        for label, one in rows[rows["curve"] == ROC].sort_values("x", kind="stable").groupby("class")
    }
    return sorted(areas, key=lambda label: (areas[label], label))[:number]


def _charts(lines: dict[str, tuple[str, pd.DataFrame]], caption: str, *, bands: bool) -> Charts:
    """ROC and precision-recall beside one another, a line for each name with its tone and rows."""
    charts: list[tuple[str, Markup]] = []
    for curve, (title, x, y) in WORDS.items():
        chance = [Line("chance", "ideal", ((0.0, 0.0), (1.0, 1.0)), markers=False)] if curve == ROC else []
        drawn = [_line(name, tone, rows[rows["curve"] == curve], bands=bands) for name, (tone, rows) in lines.items()]
        axes = axis(x, [0.0, 1.0]), axis(y, [0.0, 1.0])
        charts.append((title, line_chart([*chance, *drawn], *axes, alt=f"{title}. {caption}", width=420, height=380)))
    return Charts(tuple(charts), 2)


def _line(name: str, tone: str, rows: pd.DataFrame, *, bands: bool) -> Line:
    points = tuple(zip(rows["x"].astype(float), rows["y"].astype(float), strict=True))
    band = tuple(zip(rows["low"].astype(float), rows["high"].astype(float), strict=True)) if bands else ()
    return Line(name, tone, points, markers=False, band=band)
