"""Calibration: do stated probabilities come true?"""

from __future__ import annotations

import pandas as pd

from medssl.report.chart import Line, axis, line_chart
from medssl.report.drawings import one_chart
from medssl.report.evidence import Evidence, tones
from medssl.report.section import Figure, Section
from medssl.report.shares import labels_of, ordered_shares, share_phrase
from medssl.report.words import mode_name, ordered_modes

PLACE = 90
ANSWERS = {"TRIPOD+AI": {"15": "calibration"}}


def calibration(evidence: Evidence) -> Section:
    """Accuracy against confidence per task, in the first mode with the most labels."""
    if not evidence.calibration:
        return Section.not_given("Calibration", "No classification was evaluated for this page.")
    figures = []
    for task, table in sorted(evidence.calibration.items()):
        mode, share = ordered_modes(table["mode"])[0], ordered_shares(table["fraction"])[-1]
        rows = table[(table["mode"] == mode) & (table["fraction"] == share)]
        arms = sorted(set(rows["init"]))
        lines = [Line("ideal", "ideal", ((0.0, 0.0), (1.0, 1.0)), markers=False)]
        lines += [_line(arm, tone, rows[rows["init"] == arm]) for arm, tone in tones(arms).items() if arm in arms]
        labels = labels_of(evidence.fits.get(task), evidence.scores.get(task))
        x, y = axis("Confidence", [0.0, 1.0]), axis("Accuracy", [0.0, 1.0])
        caption = (
            f"Task {task}: accuracy of cases by their stated confidence, {mode_name(mode)}, {share_phrase(share, labels)}, "
            "the cases "
            "of all seeds together. On the dashed line confidence is right; below it, too high. The table has the cases per bin."
        )
        legend = tuple((tone, arm) for arm, tone in tones(arms).items() if arm in arms)
        body = line_chart(lines, x, y, alt=caption, width=460, height=380)
        figures.append(Figure(f"calibration-{task}", caption, caption, one_chart(body), table, legend, wide=False))
    return Section("Calibration", "When the model says 80 %, is it right in 80 % of the cases?", tuple(figures), {"example": 0.8})


def _line(arm: str, tone: str, rows: pd.DataFrame) -> Line:
    points = tuple(zip(rows["confidence"].astype(float), rows["accuracy"].astype(float), strict=True))
    tips = tuple(
        f"{arm}: {a:.2f} right at confidence {c:.2f} ({n} cases)" for (c, a), n in zip(points, rows["num_cases"], strict=True)
    )
    largest = float(rows["num_cases"].max())
    return Line(arm, tone, points, tips=tips, sizes=tuple(float(n) / largest for n in rows["num_cases"]))
