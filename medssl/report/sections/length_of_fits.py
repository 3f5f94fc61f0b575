"""Length of fits: whether the validation score had stopped rising when fine-tuning ended, start by start and share by share."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from scipy import stats

from medssl.report.chart import Line, axis, line_chart
from medssl.report.drawings import Charts
from medssl.report.evidence import Evidence, tones
from medssl.report.open_channels import open_channels
from medssl.report.section import Figure, Section, Table, Text, count, number, shown, span
from medssl.report.shares import Labels, distinct, labels_of, ordered_shares, share_phrase
from medssl.report.words import mode_name, ordered_modes

PLACE = 65
STILL = 0.01
"""A score that rises by no more than this at the end has stopped."""
LAST = 0.75
"""The end of a fit begins at its last score up to this share of its steps."""
STOPPED, RISING, OPEN, ONE, EARLY, UNKNOWN = (
    "has stopped rising",
    "still rises",
    "undecided",
    "one fit: undecided",
    "measured too late: undecided",
    "no validation score",
)


def length_of_fits(evidence: Evidence) -> Section:
    """Curves and a table per task and mode."""
    given = {task: curve for task, curve in sorted(evidence.fit_curves.items()) if len(curve) and task in evidence.fits}
    if not given:
        return Section.not_given("Length of fits", "No fit was trained in steps.")
    blocks: list[Text | Table | Figure] = []
    rising = []
    for task, curve in given.items():
        fits = evidence.fits[task]
        labels = labels_of(fits, evidence.scores.get(task))
        keys = ["fit_id", *(["fold"] if "fold" in curve and "fold" in fits else [])]
        of_fits = [*keys, "init", "mode", "fraction", "steps", *(["best_step"] if "kept" in curve else [])]
        known = distinct(curve.merge(fits[of_fits], on=keys), labels)
        rows = pd.DataFrame([_changed(part, keys) for _, part in known.groupby(["mode", "fraction", "init"])])
        for mode in ordered_modes(rows["mode"]):
            of_mode = rows[rows["mode"] == mode]
            caption = f"Task {task}, {mode_name(mode)}: the validation score at the end of the fits."
            blocks.append(Table(f"length-{task}-{mode}", caption, of_mode, _shown(of_mode, labels)))
            scored = known[(known["mode"] == mode) & known["val_score"].notna()]
            if len(scored):
                blocks.append(_figure(task, mode, scored, labels))
            blocks += open_channels(task, known[known["mode"] == mode], labels)
            rising += [f"{row['init']} ({task}, {mode_name(mode)}, {share_phrase(row['fraction'], labels)})"
                       for row in of_mode.to_dict("records") if row["verdict"] == RISING]  # fmt: skip
    if rising:
        words = f"Still rising: {', '.join(rising)}. A longer fit may change who is ahead: raise finetune.max_steps."
        blocks.insert(0, Text(words, "note"))
    lead = (
        "A start that learns slowly looks worse than it is if fits end too early. "
        f"A score has stopped rising where the interval of its change lies below {STILL:g} over the steps shown, "
        "from the last one scored in the first three quarters of the fit to its end."
    )
    return Section("Length of fits", lead, tuple(blocks), {"still": STILL, "end_from": LAST})


def _changed(curve: pd.DataFrame, keys: list[str]) -> dict[str, Any]:
    """How much the score of the fits of a start changed at the end: mean over fits, and its 95 % t interval."""
    changes, ends, since = [], [], []
    for _, one in curve.groupby(keys):
        one = one.sort_values("step")
        before = one[one["step"] <= LAST * one["steps"].iloc[0]]
        ends.append(float(one["val_score"].iloc[-1]))
        changes.append(ends[-1] - float(before["val_score"].iloc[-1]) if len(before) else math.nan)
        since += before["step"].iloc[-1:].tolist()
    changed = pd.Series(changes).dropna()
    mean, low, high = (float(changed.mean()) if len(changed) else math.nan), math.nan, math.nan
    if len(changed) > 1:
        half = float(stats.t.ppf(0.975, len(changed) - 1) * changed.sem())
        low, high = mean - half, mean + half
    return {
        **{name: curve[name].iloc[0] for name in ("mode", "fraction", "init")},
        "fits": len(changes),
        "steps": int(curve["steps"].max()),
        "since": min(since, default=math.nan),
        "score": float(pd.Series(ends).mean()),
        "change": mean,
        "low": low,
        "high": high,
        "verdict": EARLY if math.isnan(mean) and not all(map(math.isnan, ends)) else verdict(mean, low, high),
    }


def verdict(mean: float, low: float, high: float) -> str:
    """What a change with its interval says."""
    if math.isnan(mean):
        return UNKNOWN
    if math.isnan(low):
        return ONE
    if high < STILL:
        return STOPPED
    return RISING if low > 0 else OPEN


def _shown(rows: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    rows = rows.assign(
        share=[share_phrase(share, labels) for share in rows["fraction"]],
        interval=[span(low, high, sign=True) for low, high in zip(rows["low"], rows["high"], strict=True)],
        compared=[f"{count(since)} to {count(steps)}" for since, steps in zip(rows["since"], rows["steps"], strict=True)],
    )
    columns: list[tuple[str, str, Any]] = [
        ("share", "Labels", None),
        ("init", "Start", None),
        ("fits", "Fits", count),
        ("score", "Validation score", number),
        ("compared", "Steps", None),
        ("change", "Change", lambda value: number(value, sign=True)),
        ("interval", "Interval", None),
        ("verdict", "The curve", None),
    ]
    return shown(rows, columns)


def _figure(task: str, mode: str, curve: pd.DataFrame, labels: Labels) -> Figure:
    """A small chart for each share: the mean over fits by step."""
    rows = curve.groupby(["fraction", "init", "step"])[["val_score"]].mean().reset_index()
    colour = tones(sorted(set(rows["init"])))
    charts, shares = [], ordered_shares(rows["fraction"])
    width, height = (340, 210) if len(shares) > 1 else (680, 280)
    for share in shares:
        part = rows[rows["fraction"] == share]
        lines = [
            Line(str(init), colour[str(init)], tuple(zip(one["step"].astype(float), one["val_score"], strict=True)))
            for init, one in part.groupby("init")
        ]
        x = axis("Step", part["step"].astype(float).tolist(), include=[0], num_ticks=4, whole=True)
        y = axis("Validation score", part["val_score"].tolist(), num_ticks=4)
        words = share_phrase(share, labels)
        chart = line_chart(lines, x, y, alt=f"Validation score by step, {words}", width=width, height=height)
        charts.append((words.capitalize(), chart))
    caption = f"Task {task}, {mode_name(mode)}: mean validation score of the fits by step."
    body = Charts(tuple(charts), 1 if len(charts) == 1 else 3)
    legend = tuple((tone, init) for init, tone in colour.items() if init in set(rows["init"]))
    return Figure(f"length-{task}-{mode}-curves", caption, caption, body, rows, legend)
