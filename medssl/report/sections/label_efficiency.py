"""Label efficiency: the headline score against the share of labels, per arm, with intervals and each seed's spread."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from medssl.report.chart import Line, axis, category_axis, line_chart
from medssl.report.evidence import Evidence, tones
from medssl.report.section import Figure, Section, Text, number, percent, records, span
from medssl.report.words import (
    Counts,
    class_name,
    counts_of,
    headline,
    mode_name,
    name_in,
    ordered_modes,
    ordered_shares,
    share_name,
    units,
)

PLACE = 60


def label_efficiency(evidence: Evidence) -> Section:
    """One chart per task and mode, all on one vertical scale."""
    if not evidence.scores:
        return Section.not_given("Label efficiency", "No task was evaluated for this page.")
    blocks: list[Figure | Text] = []
    for task, scores in sorted(evidence.scores.items()):
        metric, label = headline(scores)
        rows = scores[(scores["metric"] == metric) & (scores["class"] == label)].reset_index(drop=True)
        figure = _figure(task, rows, metric, label, counts_of(evidence.fits.get(task), scores))
        blocks.append(figure)
        blocks += _parity(evidence, task)
    lead = (
        "How the test score grows with the labels given to fine-tuning. Subsets are nested; whiskers are intervals "
        "over test cases."
    )
    return Section("Label efficiency", lead, tuple(blocks))


def _figure(task: str, rows: pd.DataFrame, metric: str, label: str, counts: Counts) -> Figure:
    shares, named = ordered_shares(rows["fraction"]), name_in(rows, metric)
    log = len(shares) > 2 and max(shares) / min(shares) >= 8
    x = category_axis("Labels used for fine-tuning", shares, [share_name(share, counts) for share in shares], log=log)
    y = axis(named, [*rows["low"], *rows["high"], *rows["estimate"]])
    modes = ordered_modes(rows["mode"])
    width = 680 if len(modes) == 1 else 420
    charts = []
    for mode in modes:
        part = rows[rows["mode"] == mode]
        lines = _lines(part, counts)
        alt = f"{named} by share of labels, {mode_name(mode)}: " + "; ".join(tip for line in lines for tip in line.tips)
        charts.append(
            Markup('<div><p class="panel">{}</p>{}</div>').format(
                mode_name(mode).capitalize(), line_chart(lines, x, y, alt=alt, width=width)
            )
        )
    legend = tuple((tone, arm) for arm, tone in tones(sorted(set(rows["init"]))).items() if arm in set(rows["init"]))
    first = rows.iloc[0]
    caption = (
        f"Task {task}: {named} ({class_name(label)}) on {units(int(rows['n'].max()), first['unit'])} of the test "
        f"part, mean over fits (up to {int(rows['num_seeds'].max())}, of all seeds), with "
        f"{percent(first['confidence'])} intervals."
    )
    body = Markup('<div class="panels">{}</div>').format(Markup("").join(charts))
    return Figure(f"label-efficiency-{task}", caption, caption, body, rows, legend)


def _lines(part: pd.DataFrame, counts: Counts) -> list[Line]:
    lines = []
    for arm, tone in tones(sorted(set(part["init"]))).items():
        one = part[part["init"] == arm].sort_values("fraction")
        if one.empty:
            continue
        points = records(one)
        lines.append(
            Line(
                arm,
                tone,
                tuple((r["fraction"], r["estimate"]) for r in points),
                tuple((r["low"], r["high"]) for r in points),
                tuple(
                    f"{arm}, {share_name(r['fraction'], counts)}: {number(r['estimate'])} ({span(r['low'], r['high'])})"
                    for r in points
                ),
            )
        )
    return lines


OUTCOMES = {
    "fit_id",
    "init",
    "encoder_sha256",
    "inverse_penalty",
    "run",
    "seconds",
    "best_epoch",
    "best_step",
    "pretrain_seed",
    "steps_done",
    "chosen",
    "wall_s",
    "device",
}


def _parity(evidence: Evidence, task: str) -> list[Text]:
    """Whether all starting points were fine-tuned alike: same seeds, shares, training cases and recipe."""
    fits = evidence.fits.get(task)
    if fits is None:
        return []
    recipe = [name for name in fits.columns if name not in OUTCOMES and not name.startswith(("val", "score", "best"))]
    arms = fits["init"].astype(str).str.replace(r"-seed\d+$", "", regex=True)
    tables = {
        arm: part[recipe].drop_duplicates().sort_values(recipe).astype(str).to_numpy().tolist()
        for arm, part in fits[recipe].groupby(arms)
    }
    first, *others = tables.values()
    if not others:
        return []
    if all(table == first for table in others):
        shared = ", ".join(name for name in recipe if name not in ("mode", "fraction", "seed"))
        same = f"Task {task}: every starting point was fine-tuned with the same recipe, shares and seeds"
        return [Text(same + (f" ({shared})." if shared else "."))]
    words = (
        f"Task {task}: the starting points differ in how they were fine-tuned (fits.tsv says in what): read "
        f"differences with care."
    )
    return [Text(words, "note")]
