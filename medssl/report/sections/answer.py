"""The answer: a sentence per task, arm and share of labels, with effect and interval, in words that do not overclaim."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from markupsafe import Markup

from medssl.artefacts.names import is_scratch
from medssl.report.chart import ForestRow, axis, forest_chart
from medssl.report.clearest import candidates, clearest, counts_in_words, fewest_draws
from medssl.report.drawings import Charts
from medssl.report.evidence import Evidence, tones
from medssl.report.section import Figure, Section, Text, count, counted, number, p_value, percent, records, span
from medssl.report.shares import Labels, distinct, labels_of, ordered_shares, share_name, share_words
from medssl.report.words import (
    class_name,
    drawn_over,
    headline,
    is_frozen,
    label_use,
    metric_name,
    mode_name,
    name_in,
    ordered_modes,
    rarer_kind,
    units,
)

PLACE = 10
ANSWERS = {"TRIPOD+AI": {"25": "comparisons"}}
MOST_ALONE = 12
"""Comparisons of a task that get a sentence each; of more, those that came out alike share one."""

FEWEST_FITS = 2
"""From a single fit it is unknown how much of a difference is due to its seed."""
FEWEST_UNITS = 50
"""Below, an interval of a mean may be too narrow (docs/explanation/evaluate.md)."""
FEWEST_OF_CLASS = 20
"""Below, so may that of a score that sets a class against the rest (docs/explanation/evaluate.md)."""

VERDICTS = {
    "better": Markup("{}, in <strong>{} the first was better</strong>: {}."),
    "hint of better": Markup("{}, in {} the first <strong>did better</strong>: {}. A hint, not a finding."),
    "worse": Markup("{}, in <strong>{} the first was worse</strong>: {}."),
    "hint of worse": Markup("{}, in {} the first <strong>did worse</strong>: {}. A hint, not a finding."),
    "uncorrected": Markup("{}, {} are <strong>not settled</strong> once corrected for the number of comparisons: {}."),
    "unclear": Markup("{}, {} show <strong>no clear difference</strong>: {}."),
    "unknown": Markup("{}, {} have <strong>too few cases</strong> to say: {}."),
}


def answer(evidence: Evidence) -> Section:
    """What the study found, or what is known so far where no task was evaluated."""
    if not evidence.scores:
        return _without_tasks(evidence)
    blocks: list[Text | Figure] = []
    facts: dict[str, dict[str, Any]] = {}
    for task, scores in sorted(evidence.scores.items()):
        facts[task] = {"n": int(scores["n"].max()) if len(scores) else 0}
        comparisons = evidence.comparisons.get(task, pd.DataFrame())
        labels = labels_of(evidence.fits.get(task), scores)
        every = candidates(scores, comparisons)
        every = with_limits(distinct(every, labels) if len(every) else every, scores, labels)
        rows = main_comparisons(scores, comparisons)
        rows = with_limits(distinct(rows, labels) if len(rows) else rows, scores, labels)
        blocks.append(Text(_heading(task, scores), "html"))
        if rows.empty:
            blocks.append(Text(_alone(scores)))
            continue
        first = _clearest(evidence, every, scores)
        blocks += first.blocks
        chosen = _few(rows)
        blocks.append(Text(Markup('<p class="panel">{}</p>').format(_of_main_mode(rows)), "html"))
        groups = [chosen.iloc[[n]] for n in range(len(chosen))] if len(chosen) <= MOST_ALONE else alike(chosen)
        for group in groups:
            row = records(group)[0]
            if len(group) == 1:
                blocks += [Text(claim(row), "claim"), Text(detail(row, scores), "detail")]
            else:
                blocks += [Text(claim_together(group), "claim"), Text(detail_together(group), "detail")]
        modes = list(dict.fromkeys([rows["mode"].iloc[0], *(row["mode"] for row in first.rows)]))
        others = every[every["mode"].isin(modes[1:])].drop(columns="p_holm") if modes[1:] else every.head(0)
        drawn = pd.concat([rows, others], ignore_index=True)
        blocks.append(_forest(task, drawn, modes, list(scores["init"]), labels))
        claimed = [*first.rows, *(row for group in groups for row in records(group))]
        facts[task] |= {
            "comparisons": claimed,
            "scores": _behind(pd.DataFrame(claimed), scores),
            "groups": [*([1] * len(first.rows)), *map(len, groups)],
            "all": first.counts,
        }
    blocks.append(Text(_limits(evidence), "note"))
    return Section("The answer", "Does pre-training help, on these labels?", tuple(blocks), facts)


@dataclass(frozen=True)
class _First:
    """What stands first for a task: the blocks, the comparison that they claim, and the counts behind their sentence."""

    blocks: tuple[Text, ...] = ()
    rows: tuple[dict[str, Any], ...] = ()
    counts: dict[str, Any] = field(default_factory=dict)


def _clearest(evidence: Evidence, every: pd.DataFrame, scores: pd.DataFrame) -> _First:
    """The clearest comparison of all modes, and how all of them came out; nothing where there is but one."""
    row = clearest(every) if len(every) > 1 else None
    if row is None:
        return _First()
    share = _labels(row)
    row |= {"labels": f"{share[:1].lower()}{share[1:]} ({mode_name(row['mode'])})"}
    verdicts = pd.Series([verdict_of(one) for one in records(every)])
    clear = verdict_of(row) in ("better", "worse")
    start = "The clearest of all results:" if clear else "No result is settled over all modes. The clearest is this:"
    words = Markup('<span class="soft">{}</span> {}').format(start, claim(row))
    bounded = [limits_of(one, "") for one in records(every)]
    draws, needed, few = evidence.asked.evaluate.bootstrap, fewest_draws(every), ""
    resolution = {}
    if draws is not None and draws < needed and not clear:
        few = f" {count(draws)} draws of the bootstrap cannot settle so many: set evaluate.bootstrap to {count(needed)} or more."
        resolution = {"draws": draws, "draws_needed": needed}
    hints = " Where patients or fits are few, these are hints, not findings." if any(bounded) else ""
    counts = {
        "comparisons": len(every),
        "corrected": int(row["num_compared"]),
        "modes": every["mode"].nunique(),
        "shares": every["fraction"].nunique(),
        **resolution,
        **{str(verdict): int(number) for verdict, number in verdicts.value_counts().items()},
    }
    blocks = (
        Text(words, "claim"),
        Text(detail(row, scores), "detail"),
        Text(counts_in_words(verdicts, every) + few + hints),
    )
    return _First(blocks, (row,), counts)


def _of_main_mode(rows: pd.DataFrame) -> str:
    """`Full fine-tuning, with the fewest and the most labels`."""
    mode = mode_name(rows["mode"].iloc[0])
    return f"{mode[0].upper()}{mode[1:]}" + (", with the fewest and the most labels" if rows["fraction"].nunique() > 1 else "")


def main_comparisons(scores: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of the headline score, in the first mode, against every reference."""
    if comparisons.empty:
        return comparisons
    metric, label = headline(scores)
    mode = ordered_modes(comparisons["mode"])[0]
    wanted = (comparisons["metric"] == metric) & (comparisons["class"] == label) & (comparisons["mode"] == mode)
    rows = comparisons[wanted & comparisons["method"].str.startswith("bootstrap")]
    return (
        rows.assign(of_arms=~rows["b"].map(is_scratch).astype(bool))
        .sort_values(["of_arms", "b", "fraction", "a"])
        .drop(columns="of_arms")
    )


def _limits(evidence: Evidence) -> str:
    """What the intervals of the claims cover, and what they do not."""
    compared = [table[table["method"].str.startswith("bootstrap")] for table in evidence.comparisons.values() if len(table)]
    over = drawn_over(compared or evidence.scores.values())
    inside = ", of means over seeds" if over == "test cases" else ""
    chance = "the choice of cases" if over == "test cases" else "both"
    return (
        f"Intervals are over {over}{inside}: they show how much chance in {chance} can change a result. They do not cover other "
        "hospitals, scanners or populations. No clear difference does not prove equality."
    )


def with_limits(rows: pd.DataFrame, scores: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """The comparisons with what bounds a claim: how many fits stand on each side, and how many labels were given, in words."""
    sides = {f"fits_{side}": [_of_arm(scores, str(row[side]), row, "num_seeds") for row in records(rows)] for side in ("a", "b")}
    return rows.assign(**sides, labels=[share_words(share, labels) for share in rows["fraction"]]) if len(rows) else rows


def limits_of(row: dict[str, Any], first: str) -> str:
    """`on these 8 patients, with one fit from scratch`: why a clear difference is a hint only; empty where nothing bounds it."""
    found = []
    if row["n"] < FEWEST_UNITS:
        found.append(f"on {'this' if row['n'] == 1 else 'these'} {units(int(row['n']), str(row['unit']))}")
    rarer = row.get("n_rarer")
    if rarer is not None and pd.notna(rarer) and rarer < FEWEST_OF_CLASS:
        found.append(f"with {units(int(rarer), str(row['unit']))} {rarer_kind(str(row.get('metric')))}")
    few_a, few_b = (row.get(name, FEWEST_FITS) < FEWEST_FITS for name in ("fits_a", "fits_b"))
    second = "from scratch" if is_scratch(str(row["b"])) else f"of {row['b']}"
    if few_a or few_b:
        found.append(f"with one fit {'each' if few_a and few_b else f'of {first}' if few_a else second}")
    return ", ".join(found)


def claim(row: dict[str, Any]) -> Markup:
    """One comparison in words: with how many labels, on how few patients and fits, which was better, whether that is settled."""
    a, b = str(row["a"]), _scratch(row) if is_scratch(str(row["b"])) else str(row["b"])
    verdict = verdict_of(row)
    limits = limits_of(row, a)
    start = ", ".join(part for part in (_labels(row), limits) if part)
    if verdict in ("better", "worse") and limits:
        return Markup("{}, {} <strong>did {}</strong> than {}: a hint, not a finding.").format(start, a, verdict, b)
    if verdict in ("better", "worse"):
        return Markup("{}, <strong>{} was {} than {}</strong>.").format(start, a, verdict, b)
    if verdict == "uncorrected":
        return Markup(
            "{}, the difference between {} and {} is <strong>not settled</strong>: it is no longer clear once corrected "
            "for the number of comparisons."
        ).format(start, a, b)
    if verdict == "unknown":
        return Markup("{}, {} against {}: <strong>too few cases</strong> to say.").format(start, a, b)
    return Markup("{}, there is <strong>no clear difference</strong> between {} and {}.").format(start, a, b)


def alike(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The comparisons that came out alike: of one share of labels, all against scratch or none, with one verdict."""
    keyed = rows.assign(
        against_arms=[not is_scratch(str(row["b"])) for row in records(rows)],
        place=[list(VERDICTS).index(_bounded_verdict(row)) for row in records(rows)],
        limits=[
            limits_of(row | {"b": row["b"] if is_scratch(str(row["b"])) else "the second"}, "the first") for row in records(rows)
        ],
    )
    groups = keyed.groupby(["against_arms", "fraction", "place", "limits"], sort=True)
    return [group.drop(columns=["against_arms", "place", "limits"]) for _, group in groups]


def claim_together(rows: pd.DataFrame) -> Markup:
    """Comparisons that came out alike in words: how many, and which."""
    row = records(rows)[0]
    against = f" with {_scratch(row)}" if is_scratch(str(row["b"])) else " of starting points"
    firsts = {str(b): ", ".join(map(str, group["a"])) for b, group in rows.groupby("b", sort=False)}
    names = [firsts_of if is_scratch(b) else f"{firsts_of} against {b}" for b, firsts_of in firsts.items()]
    limits = limits_of(row if is_scratch(str(row["b"])) else row | {"b": "the second"}, "the first")
    start = ", ".join(part for part in (_labels(row), limits) if part)
    return VERDICTS[_bounded_verdict(row)].format(start, f"{len(rows)} comparisons{against}", "; ".join(names))


def _bounded_verdict(row: dict[str, Any]) -> str:
    """The verdict, weaker where something bounds it."""
    verdict = verdict_of(row)
    return f"hint of {verdict}" if verdict in ("better", "worse") and limits_of(row, "") else verdict


def _labels(row: dict[str, Any]) -> str:
    return str(row.get("labels") or share_words(float(row["fraction"])))


def _scratch(row: dict[str, Any]) -> str:
    """What scratch means in a mode: where the encoder is frozen, nothing of it is trained."""
    return "frozen random weights" if is_frozen(str(row["mode"])) else "training from scratch"


def detail_together(rows: pd.DataFrame) -> str:
    """The range of their differences."""
    low, high = (number(value, sign=True) for value in (rows["difference"].min(), rows["difference"].max()))
    name = name_in(rows, str(rows["metric"].iloc[0]))
    notes = dict.fromkeys(note for row in records(rows) for note in _notes(row) if not note.startswith("left out"))
    text = f"{name} differences {low} to {high}; each with its interval in the figure below."
    return f"{text} Note: {'; '.join(notes)}." if notes else text


def detail(row: dict[str, Any], scores: pd.DataFrame) -> str:
    """The numbers behind a claim: both scores, their difference with interval and p-value, seeds."""
    levels = " against ".join(number(_of_arm(scores, str(row[arm]), row, "estimate")) for arm in ("a", "b"))
    text = f"{metric_name(str(row['metric']), row.get('options'))} {levels}: {number(row['difference'], sign=True)}"
    if pd.notna(row["low"]):
        p = p_value(row["p_holm"])
        over = row.get("num_compared")
        text += (
            f" ({percent(row['confidence'])} interval {span(row['low'], row['high'], sign=True)}, p "
            f"{p if p[0] == '<' else '= ' + p}"
            f"{f' over all {count(over)} comparisons' if over is not None and pd.notna(over) else ''})"
        )
    if pd.notna(row["num_seeds"]) and row["num_seeds"] > 1:
        text += f", larger in {int(row['seeds_above'])} of {counted(row['num_seeds'], 'seed')}"
    return ". Note: ".join([text, *(["; ".join(notes)] if (notes := _notes(row)) else [])]) + "."


def _notes(row: dict[str, Any]) -> list[str]:
    note = row.get("note")
    return note.split("; ") if isinstance(note, str) and note else []


def verdict_of(row: dict[str, Any]) -> str:
    """`better`, `worse`, `unclear`, `uncorrected` (clear only before Holm's correction) or `unknown` (no interval).

    The p-value is compared with the confidence of its own interval.
    """
    low, high, p_holm = (float(row[name]) for name in ("low", "high", "p_holm"))
    if not (pd.notna(low) and pd.notna(high)):
        return "unclear" if row["p"] == 1 else "unknown"
    if low <= 0 <= high:
        return "unclear"
    if not p_holm < 1 - float(row["confidence"]):
        return "unclear" if p_holm == row["p"] else "uncorrected"
    return "better" if (low > 0) == (row["better"] == "higher") else "worse"


def _few(rows: pd.DataFrame) -> pd.DataFrame:
    """The fewest labels and the most: where pre-training should matter most, and where least."""
    shares = ordered_shares(rows["fraction"])
    return rows[rows["fraction"].isin([shares[0], shares[-1]])]


def _of_arm(scores: pd.DataFrame, arm: str, row: dict[str, Any], column: str) -> float:
    same = (scores["init"] == arm) & (scores["mode"] == row["mode"]) & (scores["fraction"] == row["fraction"])
    found = scores[same & (scores["metric"] == row["metric"]) & (scores["class"] == row["class"])][column]
    return float(found.iloc[0]) if len(found) else float("nan")


def _behind(chosen: pd.DataFrame, scores: pd.DataFrame) -> list[dict[str, Any]]:
    keys = ["mode", "fraction", "metric", "class"]
    return records(scores.merge(chosen[keys].drop_duplicates(), on=keys)[["init", *keys, "estimate"]])


def _forest(task: str, rows: pd.DataFrame, modes: list[str], arms: list[str], labels: Labels) -> Figure:
    """A chart for each mode, all on one axis."""
    colour = tones(sorted(set(arms)))
    drawn = [
        ForestRow(
            f"{share_name(row['fraction'], labels)}: {row['a']} − {row['b']}",
            colour[row["a"]],
            row["difference"],
            row["low"],
            row["high"],
            f"{number(row['difference'], sign=True)} ({span(row['low'], row['high'], sign=True)})",
        )
        for row in records(rows)
    ]
    metric = name_in(rows, str(rows["metric"].iloc[0]))
    x = axis(
        f"Difference in {metric}, with interval", [*rows["low"], *rows["high"], *rows["difference"]], include=[0.0], num_ticks=3
    )
    n = units(int(rows["n"].max()), str(rows["unit"].iloc[0]))
    named = " and ".join(map(mode_name, modes))
    caption = f"Paired differences in {metric} ({class_name(rows['class'].iloc[0])}), {named}, {n} in the test part."
    better = "right" if rows["better"].iloc[0] == "higher" else "left"
    caption += f" {better.capitalize()} of the line: the first is better."
    alt = f"{caption} " + "; ".join(f"{d.label}: {d.text}" for d in drawn)
    charts = []
    for mode in modes:
        part = [one for one, of_mode in zip(drawn, rows["mode"], strict=True) if of_mode == mode]
        title = "" if len(modes) == 1 else mode_name(mode)
        alt_of_mode = f"{caption} {title} " + "; ".join(f"{one.label}: {one.text}" for one in part)
        charts.append((title[:1].upper() + title[1:], forest_chart(part, x, alt=alt_of_mode, label_width=240)))
    return Figure(f"answer-{task}", caption, alt, Charts(tuple(charts)), rows)


def _heading(task: str, scores: pd.DataFrame) -> Markup:
    metric, label = headline(scores)
    n = units(int(scores["n"].max()), str(scores["unit"].iloc[0]))
    what = f"{name_in(scores, metric)}, {class_name(label)}; {n} in the test part"
    return Markup('<h3>{} <span class="soft">{}</span></h3>').format(task.replace("_", " "), what)


def _alone(scores: pd.DataFrame) -> str:
    metric, label = headline(scores)
    return (
        f"{name_in(scores, metric)} ({class_name(label)}) is in the results table. There is only one arm, so nothing is compared."
    )


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
    how = label_use(evidence)
    open_question = "Whether pre-training helps a task is unknown until the task is fine-tuned and tested."
    blocks.append(Text(f"The encoders were trained {how}. {open_question}", "note"))
    return Section("The answer so far", f"What was found, kept and learned {how}.", tuple(blocks), facts)
