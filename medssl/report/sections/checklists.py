"""Checklists: CLAIM, TRIPOD+AI and MI-CLAIM, each item with where it is answered or who must answer it."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from medssl.report.checklist_items import CLAIM, MI_CLAIM, TRIPOD, ChecklistItem, answered_in
from medssl.report.evidence import Evidence
from medssl.report.section import Section, Table, Text, shown

PLACE = 140
LAST_MADE = True


def checklists(evidence: Evidence) -> Section:
    """A table per list. An item is answered if a section of this page does so; otherwise it has an owner."""
    blocks: list[Text | Table] = []
    facts: dict[str, object] = {}
    for items in (CLAIM, TRIPOD, MI_CLAIM):
        rows = pd.DataFrame([_row(evidence, item) for item in items])
        answered = int((rows["state"] == "answered").sum())
        name = items[0].list_name
        owned = len(rows) - answered
        facts[name] = {"answered": answered, "owned": owned, "items": len(rows)}
        columns = [
            ("item", "Item", None),
            ("asks", "Asks for", None),
            ("state", "State", None),
            ("where", "Where, or who must answer", _where),
        ]
        caption = f"{name}: {answered} of {len(rows)} items answered on this page, {owned} left to their owners."
        blocks.append(Table(f"checklist-{name.lower().replace('+', '-')}", caption, rows, shown(rows, columns), folded=True))
    lead = "Item texts are shortened. An answer here is what the program knows; it does not replace the authors' own."
    return Section("Checklists", lead, tuple(blocks), facts)


def _row(evidence: Evidence, item: ChecklistItem) -> dict[str, str]:
    section = answered_in(evidence, item)
    return {
        "list": item.list_name,
        "item": item.number,
        "asks": item.asks,
        "state": "owner" if section is None else "answered",
        "where": item.owner if section is None else f"#{section}",
    }


def _where(value: str) -> str:
    if value.startswith("#"):
        return Markup('<a href="{}">{}</a>').format(value, value[1:].replace("_", " "))
    return value
