"""Label efficiency: the headline score against the share of labels, per arm, with intervals and each seed's spread."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from medssl.artefacts.names import arm_and_seed
from medssl.report.chart import Line, axis, category_axis, line_chart
from medssl.report.drawings import Charts
from medssl.report.evidence import Evidence, tones
from medssl.report.section import Figure, Section, Table, Text, number, p_value, percent, records, shown, span
from medssl.report.shares import (
    Labels,
    distinct,
    labels_of,
    ordered_shares,
    share_name,
    share_phrase,
    share_place,
    shares_alike,
)
from medssl.report.words import (
    class_name,
    drawn_over,
    headline,
    holm_family,
    metric_name,
    mode_name,
    name_in,
    ordered_modes,
    units,
)

PLACE = 60
ANSWERS = {"CLAIM": {"30": "scores"}}


def label_efficiency(evidence: Evidence) -> Section:
    """One chart per task and mode, all on one vertical scale, and how far each starting point falls as labels shrink."""
    if not evidence.scores:
        return Section.not_given("Label efficiency", "No task was evaluated for this page.")
    blocks: list[Figure | Table | Text] = []
    facts: dict[str, dict[str, object]] = {}
    for task, scores in sorted(evidence.scores.items()):
        metric, label = headline(scores)
        labels = labels_of(evidence.fits.get(task), scores)
        facts[task] = {"taken": [asdict(taken) for taken in labels.values()]}
        rows = scores[(scores["metric"] == metric) & (scores["class"] == label)]
        rows = distinct(rows, labels).reset_index(drop=True)
        blocks.append(_figure(task, rows, metric, label, labels))
        blocks += [Text(f"Task {task}: {words}", "note") for words in shares_alike(labels)]
        blocks += _falls(evidence, task, labels)
        facts[task]["falls"] = without = _without_seeds(evidence, task)
        blocks += [Text(f"Task {task}, falls: {note}.", "note") for note in without]
        blocks += _parity(evidence, task)
    nested = any(scores["fraction"].nunique() > 1 for scores in evidence.scores.values())
    lead = "How the test score grows with the labels used for fine-tuning. "
    over = drawn_over(evidence.scores.values())
    lead += f"{'Subsets are nested; whiskers' if nested else 'Whiskers'} are intervals over {over}."
    return Section("Label efficiency", lead, tuple(blocks), facts)


def _figure(task: str, rows: pd.DataFrame, metric: str, label: str, labels: Labels) -> Figure:
    rows = rows.assign(taken_frac=[share_place(share, labels) for share in rows["fraction"]])
    shares, named = ordered_shares(rows["fraction"]), name_in(rows, metric)
    places = [share_place(share, labels) for share in shares]
    ticks = [labels[share].tick if share in labels else share_name(share) for share in shares]
    log = len(shares) > 2 and max(places) / min(places) >= 8
    x = category_axis("Labels used for fine-tuning", places, ticks, log=log)
    y = axis(named, [*rows["low"], *rows["high"], *rows["estimate"]])
    modes = ordered_modes(rows["mode"])
    width = 680 if len(modes) == 1 else 420
    charts = []
    for mode in modes:
        part = rows[rows["mode"] == mode]
        lines = _lines(part, labels)
        alt = f"{named} by share of labels, {mode_name(mode)}: " + "; ".join(tip for line in lines for tip in line.tips)
        charts.append((mode_name(mode).capitalize(), line_chart(lines, x, y, alt=alt, width=width)))
    legend = tuple((tone, arm) for arm, tone in tones(sorted(set(rows["init"]))).items() if arm in set(rows["init"]))
    first = rows.iloc[0]
    caption = (
        f"Task {task}: {named} ({class_name(label)}) on {units(int(rows['n'].max()), first['unit'])} of the test "
        f"part, mean over fits (up to {int(rows['num_seeds'].max())}, of all seeds), with "
        f"{percent(first['confidence'])} intervals."
    )
    body = Charts(tuple(charts), min(2, len(charts)))
    return Figure(f"label-efficiency-{task}", caption, caption, body, rows, legend)


def _lines(part: pd.DataFrame, labels: Labels) -> list[Line]:
    lines = []
    for arm, tone in tones(sorted(set(part["init"]))).items():
        one = part[part["init"] == arm].sort_values("taken_frac")
        if one.empty:
            continue
        points = records(one)
        lines.append(
            Line(
                arm,
                tone,
                tuple((r["taken_frac"], r["estimate"]) for r in points),
                tuple((r["low"], r["high"]) for r in points),
                tuple(
                    f"{arm}, {share_name(r['fraction'], labels)}: {number(r['estimate'])} ({span(r['low'], r['high'])})"
                    for r in points
                ),
            )
        )
    return lines


def _falls(evidence: Evidence, task: str, labels: Labels) -> list[Table]:
    """How much of the score each starting point loses from the most labels to the fewest, the least first in each mode."""
    falls = evidence.falls.get(task, pd.DataFrame())
    if falls.empty:
        return []
    metric, label = headline(evidence.scores[task])
    rows = falls[(falls["metric"] == metric) & (falls["class"] == label)]
    rows = rows[[not _are_twins(row["fraction_most"], row["fraction_fewest"], labels) for row in records(rows)]]
    if rows.empty:
        return []
    rank = rows["mode"].map({mode: place for place, mode in enumerate(ordered_modes(rows["mode"]))})
    rows = rows.assign(rank=rank).sort_values(["rank", "fall", "init"], ignore_index=True).drop(columns="rank")
    rows["fall_frac"] = (rows["fall"] / rows["score_most"].abs()).where(rows["score_most"] != 0)
    most, fewest = rows["fraction_most"].max(), rows["fraction_fewest"].min()
    words = f"from {share_phrase(most, labels)} to {share_name(fewest, labels)}"
    caption = (
        f"Task {task}: what each starting point loses {words}, the least first, with {percent(rows['confidence'].iloc[0])} "
        f"intervals over {drawn_over([rows])}. A start that is poor with all labels has little to lose."
    )
    columns = [
        ("init", "Starting point", None),
        ("mode", "Mode", mode_name),
        ("score_most", f"{metric_name(metric)}, {share_name(most, labels)}", number),
        ("score_fewest", f"{metric_name(metric)}, {share_name(fewest, labels)}", number),
        ("fall", "Falls by", number),
        ("interval", "Interval", None),
        ("fall_frac", "Of its score", percent),
    ]
    drawn = shown(rows.assign(interval=_spans(rows)), columns)
    return [Table(f"label-efficiency-{task}-falls", caption, rows, drawn), *_differences(evidence, task, rows, words)]


def _differences(evidence: Evidence, task: str, falls: pd.DataFrame, words: str) -> list[Table]:
    """Whether one starting point loses less than another."""
    table = evidence.fall_comparisons.get(task, pd.DataFrame())
    if table.empty:
        return []
    keys = ["mode", "metric", "class", "fraction_most", "fraction_fewest"]
    rows = table.merge(falls[keys].drop_duplicates(), on=keys)
    rank = rows["mode"].map({mode: place for place, mode in enumerate(ordered_modes(rows["mode"]))})
    rows = rows.assign(rank=rank).sort_values(["rank", "b", "a"], ignore_index=True).drop(columns="rank")
    family = holm_family(evidence.asked.evaluate, of_shares=False)
    caption = (
        f"Task {task}: what the first loses {words}, less what the second loses, on the same cases, with intervals over "
        f"{drawn_over([rows])}. Negative: the first loses less. p (Holm) is corrected over {family}."
    )
    columns = [
        ("pair", "First − second", None),
        ("mode", "Mode", mode_name),
        ("difference", "Difference of falls", lambda value: number(value, sign=True)),
        ("interval", "Interval", None),
        ("p", "p", p_value),
        ("p_holm", "p (Holm)", p_value),
    ]
    drawn = shown(rows.assign(interval=_spans(rows), pair=rows["a"] + " − " + rows["b"]), columns)
    return [Table(f"label-efficiency-{task}-fall-tests", caption, rows, drawn)]


def _without_seeds(evidence: Evidence, task: str) -> list[str]:
    """Which starting points have too few seeds for their spread to be in the intervals of differences of falls, in words."""
    table = evidence.fall_comparisons.get(task, pd.DataFrame({"note": []}))
    notes = [note for text in table["note"].dropna() for note in str(text).split("; ")]
    return sorted({note for note in notes if note.startswith("without")})


def _spans(rows: pd.DataFrame) -> list[str]:
    return [span(low, high, sign=True) for low, high in zip(rows["low"], rows["high"], strict=True)]


def _are_twins(most: float, fewest: float, labels: Labels) -> bool:
    """Whether two shares are the very same units, so that nothing falls."""
    return most in labels and fewest in labels and labels[most].twin == labels[fewest].twin


OUTCOMES = {
    "fit_id",
    "init",
    "encoder_sha256",
    "decoder_tensors",
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
    arms = [str(arm_and_seed(init)[0]) for init in fits["init"]]
    tables = {
        arm: part.drop_duplicates().sort_values(recipe).to_numpy().tolist()
        for arm, part in fits[recipe].astype(str).groupby(arms)
    }
    first, *others = tables.values()
    if not others:
        return []
    if all(table == first for table in others):
        shared = ", ".join(name for name in recipe if name not in ("mode", "fraction", "seed", "fold"))
        same = f"Task {task}: every starting point was fine-tuned with the same recipe, shares and seeds"
        return [Text(same + (f" ({shared})." if shared else "."))]
    words = (
        f"Task {task}: the starting points were not fine-tuned alike (fits.tsv shows how they differ): interpret "
        f"differences with care."
    )
    return [Text(words, "note")]
