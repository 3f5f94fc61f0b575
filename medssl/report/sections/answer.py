"""The answer: a sentence per task, arm and share of labels, with effect and interval, in words that do not overclaim."""

from __future__ import annotations

from typing import Any

import pandas as pd
from markupsafe import Markup

from medssl.report.chart import Interval, axis, forest_chart
from medssl.report.evidence import Evidence, tones
from medssl.report.section import Figure, Section, Text, count, counted, number, p_value, percent, records, span
from medssl.report.words import (
    class_name,
    headline,
    metric_name,
    mode_name,
    ordered_modes,
    ordered_shares,
    share_name,
    share_words,
    units,
)

PLACE = 10
CLEAR_BELOW = 0.05
FROZEN_MODES = ("linear", "knn", "decoder")
MOST_ALONE = 12
"""Comparisons of a task that get a sentence each; of more, those that came out alike share one."""

VERDICTS = {
    "better": Markup("{}, in <strong>{} the first was better</strong>: {}."),
    "worse": Markup("{}, in <strong>{} the first was worse</strong>: {}."),
    "uncorrected": Markup("{}, {} are <strong>not settled</strong> once corrected for the number of arms: {}."),
    "unclear": Markup("{}, {} show <strong>no clear difference</strong>: {}."),
    "unknown": Markup("{}, {} have <strong>too few cases</strong> to say: {}."),
}


def answer(evidence: Evidence) -> Section:
    """What the study found, or what was learnt so far where no task was evaluated."""
    if not evidence.scores:
        return _without_tasks(evidence)
    blocks: list[Text | Figure] = []
    facts: dict[str, object] = {}
    for task, scores in sorted(evidence.scores.items()):
        comparisons = evidence.comparisons.get(task, pd.DataFrame())
        rows = main_comparisons(scores, comparisons)
        blocks.append(Text(_heading(task, scores, rows), "html"))
        if rows.empty:
            blocks.append(Text(_alone(scores)))
            continue
        chosen = _few(rows)
        groups = [chosen.iloc[[n]] for n in range(len(chosen))] if len(chosen) <= MOST_ALONE else alike(chosen)
        for group in groups:
            row = records(group)[0]
            if len(group) == 1:
                blocks += [Text(claim(row), "claim"), Text(detail(row, scores), "detail")]
            else:
                blocks += [Text(claim_together(group), "claim"), Text(detail_together(group), "detail")]
        blocks.append(_forest(task, rows, list(scores["init"])))
        facts[task] = {"comparisons": records(chosen), "scores": _behind(chosen, scores), "groups": [len(g) for g in groups]}
    blocks.append(
        Text(
            "Intervals are over the test cases of this study, with the seeds' mean inside; they say how far "
            "chance in the choice of "
            "cases reaches. They do not speak for other hospitals, scanners or populations, and a difference that is not clear "
            "is not proof of equality.",
            "note",
        )
    )
    return Section("The answer", "Is the pre-training worth it, on these labels?", tuple(blocks), facts)


def main_comparisons(scores: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of the headline score, in the first mode, against every reference."""
    if comparisons.empty:
        return comparisons
    metric, label = headline(scores)
    mode = ordered_modes(comparisons["mode"])[0]
    wanted = (comparisons["metric"] == metric) & (comparisons["class"] == label) & (comparisons["mode"] == mode)
    rows = comparisons[wanted & comparisons["method"].str.startswith("bootstrap")]
    return (
        rows.assign(is_scratch=rows["b"] != "scratch")
        .sort_values(["is_scratch", "b", "fraction", "a"])
        .drop(columns="is_scratch")
    )


def claim(row: dict[str, Any]) -> Markup:
    """One comparison in words: with how many labels, which was better, and whether that is settled."""
    a, b = str(row["a"]), _scratch(row) if row["b"] == "scratch" else str(row["b"])
    verdict = verdict_of(row)
    start = share_words(float(row["fraction"]))
    if verdict in ("better", "worse"):
        return Markup("{}, <strong>{} was {} than {}</strong>.").format(start, a, verdict, b)
    if verdict == "uncorrected":
        return Markup(
            "{}, {} against {} is <strong>not settled</strong>: the difference does not stand once corrected for "
            "the number of arms."
        ).format(start, a, b)
    if verdict == "unknown":
        return Markup("{}, {} against {}: <strong>too few cases</strong> to say.").format(start, a, b)
    return Markup("{}, there is <strong>no clear difference</strong> between {} and {}.").format(start, a, b)


def alike(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The comparisons that came out alike: of one share of labels, all against scratch or none, with one verdict."""
    keyed = rows.assign(against_arms=rows["b"] != "scratch", verdict=[verdict_of(row) for row in records(rows)])
    keyed["place"] = keyed["verdict"].map({verdict: place for place, verdict in enumerate(VERDICTS)})
    groups = keyed.groupby(["against_arms", "fraction", "place"], sort=True)
    return [group.drop(columns=["against_arms", "verdict", "place"]) for _, group in groups]


def claim_together(rows: pd.DataFrame) -> Markup:
    """Comparisons that came out alike in words: how many, and which."""
    row = records(rows)[0]
    against = f" with {_scratch(row)}" if row["b"] == "scratch" else " of starting points"
    names = [one["a"] if one["b"] == "scratch" else f"{one['a']} and {one['b']}" for one in records(rows)]
    pattern = VERDICTS[verdict_of(row)]
    return pattern.format(share_words(float(row["fraction"])), f"{len(rows)} comparisons{against}", "; ".join(map(str, names)))


def _scratch(row: dict[str, Any]) -> str:
    """What scratch means in a mode: where the encoder is frozen, nothing of it is trained."""
    return "random weights, also frozen" if row["mode"] in FROZEN_MODES else "training from scratch"


def detail_together(rows: pd.DataFrame) -> str:
    """The range of their differences."""
    low, high = (number(value, sign=True) for value in (rows["difference"].min(), rows["difference"].max()))
    return f"{metric_name(str(rows['metric'].iloc[0]))} differences {low} to {high}; each with its interval in the figure below."


def detail(row: dict[str, Any], scores: pd.DataFrame) -> str:
    """The numbers behind a claim: both scores, their difference with interval and p-value, seeds."""
    levels = " against ".join(number(_estimate(scores, str(row[arm]), row)) for arm in ("a", "b"))
    text = f"{metric_name(str(row['metric']))} {levels}: {number(row['difference'], sign=True)}"
    if pd.notna(row["low"]):
        p = p_value(row["p_holm"])
        text += (
            f" ({percent(row['confidence'])} interval {span(row['low'], row['high'], sign=True)}, p "
            f"{p if p[0] == '<' else '= ' + p})"
        )
    if pd.notna(row["num_seeds"]):
        text += f", larger in {int(row['seeds_above'])} of {counted(row['num_seeds'], 'seed')}"
    return text + "."


def verdict_of(row: dict[str, Any]) -> str:
    """`better`, `worse`, `unclear`, `uncorrected` (clear only before Holm's correction) or `unknown` (no interval)."""
    low, high, p_holm = (float(row[name]) for name in ("low", "high", "p_holm"))
    if not (pd.notna(low) and pd.notna(high)):
        return "unclear" if row["p"] == 1 else "unknown"
    if low <= 0 <= high:
        return "unclear"
    if not p_holm < CLEAR_BELOW:
        return "uncorrected"
    return "better" if (low > 0) == (row["better"] == "higher") else "worse"


def _few(rows: pd.DataFrame) -> pd.DataFrame:
    """The fewest labels and the most: where pre-training should matter most, and where least."""
    shares = ordered_shares(rows["fraction"])
    return rows[rows["fraction"].isin([shares[0], shares[-1]])]


def _estimate(scores: pd.DataFrame, arm: str, row: dict[str, Any]) -> float:
    same = (scores["init"] == arm) & (scores["mode"] == row["mode"]) & (scores["fraction"] == row["fraction"])
    found = scores[same & (scores["metric"] == row["metric"]) & (scores["class"] == row["class"])]["estimate"]
    return float(found.iloc[0]) if len(found) else float("nan")


def _behind(chosen: pd.DataFrame, scores: pd.DataFrame) -> list[dict[str, Any]]:
    keys = ["mode", "fraction", "metric", "class"]
    return records(scores.merge(chosen[keys].drop_duplicates(), on=keys)[["init", *keys, "estimate"]])


def _forest(task: str, rows: pd.DataFrame, arms: list[str]) -> Figure:
    colour = tones(sorted(set(arms)))
    drawn = [
        Interval(
            f"{share_name(row['fraction'])}: {row['a']} − {row['b']}",
            colour[row["a"]],
            row["difference"],
            row["low"],
            row["high"],
            f"{number(row['difference'], sign=True)} ({span(row['low'], row['high'], sign=True)})",
        )
        for row in records(rows)
    ]
    metric = metric_name(rows["metric"].iloc[0])
    x = axis(
        f"Difference in {metric}, with interval", [*rows["low"], *rows["high"], *rows["difference"]], include=[0.0], num_ticks=3
    )
    n = units(int(rows["n"].iloc[0]), str(rows["unit"].iloc[0]))
    caption = (
        f"Paired differences in {metric} ({class_name(rows['class'].iloc[0])}), {mode_name(rows['mode'].iloc[0])}, "
        f"{n} in the test part."
    )
    better = "right" if rows["better"].iloc[0] == "higher" else "left"
    caption += f" {better.capitalize()} of the line: the first is better."
    alt = f"{caption} " + "; ".join(f"{d.label}: {d.text}" for d in drawn)
    return Figure(f"answer-{task}", caption, alt, forest_chart(drawn, x, alt=alt, label_width=240), rows)


def _heading(task: str, scores: pd.DataFrame, rows: pd.DataFrame) -> Markup:
    metric, label = headline(scores)
    mode = "" if rows.empty else f", {mode_name(rows['mode'].iloc[0])}"
    n = units(int(scores["n"].iloc[0]), str(scores["unit"].iloc[0]))
    what = f"{metric_name(metric)}, {class_name(label)}{mode}; {n} in the test part"
    return Markup('<h3>{} <span class="soft">{}</span></h3>').format(task.replace("_", " "), what)


def _alone(scores: pd.DataFrame) -> str:
    metric, label = headline(scores)
    return f"{metric_name(metric)} ({class_name(label)}) is in the results table; there is no second arm to compare it with."


def _without_tasks(evidence: Evidence) -> Section:
    files = sum(int(table["num_files"].sum()) for table in [*evidence.series.values(), *evidence.rejected.values()])
    refused = sum(int(table["num_files"].sum()) for table in evidence.rejected.values())
    facts: dict[str, Any] = {"files": files, "refused": refused, "arms": {}, "runs": {}}
    blocks = [Text(f"{counted(files, 'file')} found, {count(refused)} of them refused with a reason.", "claim")]
    for name, keep in sorted(evidence.keeps.items()):
        kept = int(keep["keep"].sum())
        blocks.append(Text(f"Reduction {name} keeps {count(kept)} of {counted(len(keep), 'training slice')}.", "detail"))
        facts["arms"][name] = {"kept": kept, "slices": len(keep)}
    for run, curve in sorted(evidence.curves.items()):
        losses = curve["loss"].dropna()
        if len(losses):
            ends = (float(losses.iloc[0]), float(losses.iloc[-1]))
            facts["runs"][run] = {"first_loss": ends[0], "last_loss": ends[1]}
            blocks.append(Text(f"Run {run}: loss from {number(ends[0])} to {number(ends[1])}.", "detail"))
    words = "No labels were used so far: whether the pre-training helps a task is not known before it is fine-tuned and tested."
    blocks.append(Text(words, "note"))
    return Section("The answer so far", "What was found, kept and learnt without labels.", tuple(blocks), facts)
