"""Survival curves: does a higher predicted risk mean an earlier event?"""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
from markupsafe import Markup

from medssl.report.chart import Line, axis, line_chart
from medssl.report.drawings import Charts
from medssl.report.evidence import Evidence, tones
from medssl.report.parts import is_folded
from medssl.report.section import Figure, Section, Table, p_value, percent, records, shown
from medssl.report.shares import labels_of, ordered_shares, share_phrase
from medssl.report.words import mode_name, ordered_modes

PLACE = 89
TONES = {"low": "k2", "middle": "k1", "high": "k3"}


def survival_curves(evidence: Evidence) -> Section:
    """Kaplan-Meier curves by tertile of the predicted risk, of each arm in the first mode with the most labels."""
    if not evidence.risk_groups:
        return Section.not_given("Survival curves", "No survival analysis was evaluated for this page.")
    blocks: list[Figure | Table] = []
    levels: set[float] = set()
    for task, table in sorted(evidence.risk_groups.items()):
        mode, share = ordered_modes(table["mode"])[0], ordered_shares(table["fraction"])[-1]
        rows = table[(table["mode"] == mode) & (table["fraction"] == share)]
        setting = f"{mode_name(mode)}, {share_phrase(share, labels_of(evidence.fits.get(task), evidence.scores.get(task)))}"
        unit = evidence.asked.finetune[task].measured_in if task in evidence.asked.finetune else ""
        levels |= set(evidence.scores[task]["confidence"].astype(float)) if task in evidence.scores else set()
        folded = task in evidence.fits and is_folded(evidence.fits[task])
        blocks += [_figure(task, rows, setting, unit, folded=folded), _groups(task, rows, setting)]
    level = f"{' and '.join(percent(one) for one in sorted(levels))} " if levels else ""
    lead = (
        "Kaplan-Meier curves of the third of the test cases with the lowest predicted risk, of the middle and of the highest. "
        f"Bands are {level}intervals at each time by itself."
    )
    return Section("Survival curves", lead, tuple(blocks), {"confidences": sorted(levels)})


def _figure(task: str, rows: pd.DataFrame, setting: str, unit: str, *, folded: bool) -> Figure:
    charts: list[tuple[str, Markup]] = []
    rank = "rank within its fold, mean over fits" if folded else "mean rank over fits"
    caption = (
        f"Task {task}: the share without an event over time, by third of the predicted risk ({rank}), {setting}; "
        "p is of the log-rank test that the thirds have one hazard. The table has the numbers at risk."
    )
    x = axis(f"Time{f' ({unit})' if unit else ''}", [0.0, *rows["time"].astype(float)])
    y = axis("Without an event", [0.0, 1.0])
    for arm in (arm for arm in tones(sorted(set(rows["init"]))) if arm in set(rows["init"])):
        part = rows[rows["init"] == arm]
        p = p_value(part["p"].iloc[0])
        lines = [_steps(group, part[part["group"] == group]) for group in TONES if group in set(part["group"])]
        title = f"{arm}, p {p if p[0] == '<' else f'= {p}'}" if p != "n/a" else arm
        charts.append((title, line_chart(lines, x, y, alt=f"{arm}. {caption}", width=420, height=320)))
    legend = tuple((tone, f"{group} risk") for group, tone in TONES.items())
    return Figure(f"survival-{task}", caption, caption, Charts(tuple(charts), 2), rows, legend)


def _steps(group: str, rows: pd.DataFrame) -> Line:
    """The curve of a group: level until the next time, then down."""
    ordered = records(rows.sort_values("time", kind="stable"))
    found = [(row["time"], row["event_free"], row["low"], row["high"]) for row in ordered]
    drawn = [found[0]]
    for before, after in pairwise(found):
        drawn += [(after[0], *before[1:]), after]
    points = tuple((float(time), float(share)) for time, share, _, _ in drawn)
    band = tuple((float(low), float(high)) for _, _, low, high in drawn)
    return Line(group, TONES[group], points, markers=False, band=band)


def _groups(task: str, rows: pd.DataFrame, setting: str) -> Table:
    """Cases and events of each group and arm, and the log-rank test of each arm."""
    groups = rows.drop_duplicates(["init", "group"])[["init", "group", "num_cases", "num_events", "p", "num_fits"]]
    groups = groups.reset_index(drop=True)
    heads = [
        ("init", "Start", None),
        ("group", "Predicted risk", None),
        ("num_cases", "Cases", str),
        ("num_events", "Events", str),
        ("p", "p (log-rank)", p_value),
        ("num_fits", "Fits", str),
    ]
    return Table(
        f"survival-groups-{task}", f"Task {task}: the thirds by predicted risk, {setting}.", groups, shown(groups, heads)
    )
