"""Subgroups: the headline score within each value of each column of the label table."""

from __future__ import annotations

from medssl.report.evidence import Evidence
from medssl.report.section import Section, Table, number, shown, span
from medssl.report.shares import labels_of, ordered_shares, share_phrase
from medssl.report.words import headline, mode_name, name_in, ordered_modes

PLACE = 95
ANSWERS = {"TRIPOD+AI": {"14": "subgroups", "23": "scores"}}


def subgroups(evidence: Evidence) -> Section:
    """A table per task, in the first mode with the most labels; every other row is in the download."""
    given = {task: table for task, table in sorted(evidence.subgroups.items()) if len(table)}
    if not given:
        return Section.not_given("Subgroups", "The label tables name no group columns (group_<name>).")
    tables = []
    for task, table in given.items():
        metric, label = headline(evidence.scores.get(task, table))
        named, labels = name_in(table, metric), labels_of(evidence.fits.get(task), table)
        mode, share = ordered_modes(table["mode"])[0], ordered_shares(table["fraction"])[-1]
        wanted = (table["metric"] == metric) & (table["class"] == label) & (table["mode"] == mode) & (table["fraction"] == share)
        rows = table[wanted].assign(
            interval=[span(a, b) for a, b in zip(table[wanted]["low"], table[wanted]["high"], strict=True)]
        )
        columns = [
            ("group", "Column", None),
            ("value", "Value", None),
            ("init", "Start", None),
            ("estimate", named, number),
            ("interval", "Interval", None),
            ("n", "n", str),
            ("note", "Note", None),
        ]
        caption = f"Task {task}: {named} within subgroups, {mode_name(mode)}, {share_phrase(share, labels)}."
        tables.append(Table(f"subgroups-{task}", caption, table, shown(rows, columns)))
    return Section(
        "Subgroups", "Small groups have wide intervals; overlapping intervals do not prove equal treatment.", tuple(tables)
    )
