"""Paired tests: each comparison of two arms on the same test cases, by every method."""

from __future__ import annotations

import pandas as pd

from medssl.report.evidence import Evidence
from medssl.report.section import Section, Table, Text, number, p_value, records, shown, span
from medssl.report.shares import Labels, distinct, labels_of, share_name
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

PLACE = 80
ANSWERS = {"CLAIM": {"29": "comparisons"}}


def paired_tests(evidence: Evidence) -> Section:
    """The headline score's comparisons, then all of them folded."""
    given = {task: table for task, table in sorted(evidence.comparisons.items()) if len(table)}
    if not given:
        return Section.not_given("Paired tests", "No two arms were compared on this page.")
    blocks: list[Table | Text] = []
    for task, table in given.items():
        metric, label = headline(evidence.scores.get(task, table))
        main = table[(table["metric"] == metric) & (table["class"] == label)]
        named, labels = name_in(table, metric), labels_of(evidence.fits.get(task), table)
        n = units(int(table["n"].max()), str(table["unit"].iloc[0]))
        main = distinct(main, labels)
        for mode in ordered_modes(main["mode"]):
            rows = main[main["mode"] == mode]
            caption = f"Task {task}, {mode_name(mode)}: {named} ({class_name(label)}), {n}."
            several = main["method"].nunique() > 1
            hidden = ["Mode", "Score"] + ([] if several else ["Method"])
            blocks.append(Table(f"tests-{task}-{mode}", caption, rows, _shown(rows, labels).drop(columns=hidden)))
        blocks.append(
            Table(
                f"comparisons-{task}",
                f"Task {task}: every comparison ({len(table)} rows)",
                table,
                _shown(table, labels),
                folded=True,
            )
        )
    blocks.append(
        Text(
            "Difference: first minus second, of the means over seeds, on the same cases. p (Holm) is corrected over "
            f"{holm_family(evidence.asked.evaluate)}. d_z is the difference in standard deviations of the paired differences; "
            "the rank-biserial correlation is the balance of ranks. Above: seeds in which the first had the larger value."
        )
    )
    in_any = drawn_over(table[table["method"].str.startswith("bootstrap")] for table in given.values()) != "test cases"
    choice = "test cases and seeds" if in_any else "test cases"
    return Section("Paired tests", f"Is a difference larger than the choice of {choice} explains?", tuple(blocks))


def _shown(table: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    rows = table.assign(
        interval=[span(a, b, sign=True) for a, b in zip(table["low"], table["high"], strict=True)],
        above=[_above(a, n) for a, n in zip(table["seeds_above"], table["num_seeds"], strict=True)],
        pair=table["a"] + " − " + table["b"],
        what=[f"{metric_name(row['metric'], row.get('options'))} ({class_name(row['class'])})" for row in records(table)],
        strength=[
            f"{n} {number(e, 2)}" if pd.notna(e) else "n/a" for e, n in zip(table["effect"], table["effect_name"], strict=True)
        ],
    )
    return shown(
        rows,
        [
            ("fraction", "Labels", lambda share: share_name(share, labels)),
            ("pair", "First − second", None),
            ("mode", "Mode", mode_name),
            ("what", "Score", None),
            ("difference", "Difference", lambda v: number(v, sign=True)),
            ("interval", "Interval", None),
            ("p", "p", p_value),
            ("p_holm", "p (Holm)", p_value),
            ("strength", "Effect size", None),
            ("above", "Above", None),
            ("n", "n", str),
            ("method", "Method", None),
            ("note", "Note", None),
        ],
    )


def _above(above: object, num: object) -> str:
    return "n/a" if pd.isna(above) or pd.isna(num) else f"{int(above)} of {int(num)}"  # type: ignore[call-overload]
