"""Predicted values: do they agree with the true ones, over their whole range?"""

from __future__ import annotations

import pandas as pd

from medssl.report.chart import Line, axis, line_chart
from medssl.report.drawings import one_chart
from medssl.report.evidence import Evidence, tones
from medssl.report.section import Figure, Section, Table, number, shown
from medssl.report.shares import labels_of, ordered_shares, share_phrase
from medssl.report.words import mode_name, ordered_modes

PLACE = 88
ANSWERS = {"TRIPOD+AI": {"15": "agreement"}}


def predicted_values(evidence: Evidence) -> Section:
    """True against predicted values per regression, in the first mode with the most labels, and the line through them."""
    if not evidence.agreement:
        return Section.not_given("Predicted values", "No regression was evaluated for this page.")
    blocks: list[Figure | Table] = []
    for task, table in sorted(evidence.agreement.items()):
        mode, share = ordered_modes(table["mode"])[0], ordered_shares(table["fraction"])[-1]
        rows = table[(table["mode"] == mode) & (table["fraction"] == share)]
        labels = labels_of(evidence.fits.get(task), evidence.scores.get(task))
        setting = f"{mode_name(mode)}, {share_phrase(share, labels)}"
        unit = evidence.asked.finetune[task].measured_in if task in evidence.asked.finetune else ""
        blocks += [_figure(task, rows, setting, unit), _lines(task, rows, setting, unit)]
    return Section("Predicted values", "When the model says 60, is the mean of these cases 60?", tuple(blocks), {"example": 60})


def _figure(task: str, rows: pd.DataFrame, setting: str, unit: str) -> Figure:
    arms = {arm: tone for arm, tone in tones(sorted(set(rows["init"]))).items() if arm in set(rows["init"])}
    both = [*rows["value"].astype(float), *rows["target"].astype(float)]
    x, y = (axis(f"{what}{f' ({unit})' if unit else ''}", both) for what in ("Predicted", "True, mean of the bin"))
    ideal = Line("ideal", "ideal", ((x.low, x.low), (x.high, x.high)), markers=False)
    lines = [ideal, *(_line(arm, tone, rows[rows["init"] == arm]) for arm, tone in arms.items())]
    caption = (
        f"Task {task}: true against predicted values in bins of equally many cases, {setting}, the cases of all seeds together. "
        "On the dashed line predictions are right on average; below it, too high."
    )
    body = line_chart(lines, x, y, alt=caption, width=460, height=380)
    legend = tuple((tone, arm) for arm, tone in arms.items())
    return Figure(f"agreement-{task}", caption, caption, one_chart(body), rows, legend, wide=False)


def _line(arm: str, tone: str, rows: pd.DataFrame) -> Line:
    points = tuple(zip(rows["value"].astype(float), rows["target"].astype(float), strict=True))
    tips = tuple(
        f"{arm}: {a:.3g} predicted, {b:.3g} true ({n} cases)" for (a, b), n in zip(points, rows["num_cases"], strict=True)
    )
    return Line(arm, tone, points, tips=tips)


def _lines(task: str, rows: pd.DataFrame, setting: str, unit: str) -> Table:
    """The calibration line of each arm."""
    lines = rows.drop_duplicates("init")[["init", "slope", "intercept", "num_fits"]].reset_index(drop=True)
    heads = [
        ("init", "Start", None),
        ("slope", "Slope", lambda value: number(value, 2)),
        ("intercept", f"Intercept{f' ({unit})' if unit else ''}", lambda value: number(value, 2)),
        ("num_fits", "Fits", str),
    ]
    caption = (
        f"Task {task}: the line of true over predicted values, mean over fits, {setting}. Slope 1 and intercept 0 are right on "
        "average everywhere; a slope below 1 means that predictions spread too far, above 1 too little."
    )
    return Table(f"agreement-line-{task}", caption, lines, shown(lines, heads))
