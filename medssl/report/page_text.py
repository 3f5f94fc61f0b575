"""Sections into one HTML text with everything inside it, and into plain values for report.json."""

from __future__ import annotations

import base64
import math
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from medssl.core.files import canonical_json
from medssl.core.tables import tsv_text
from medssl.report.drawings import Charts
from medssl.report.marks import chip
from medssl.report.section import Section, Table, Text, records


def page_html(template: str, style: str, title: str, sections: list[tuple[str, Section]]) -> str:
    """The page. Everything is in the text: no request leaves it when it is opened."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["tsv"] = _download
    environment.filters["chip"] = chip
    environment.tests["charts"] = lambda body: isinstance(body, Charts)
    environment.tests["numeric"] = _looks_numeric
    page = environment.from_string(template)
    rules = Markup(style)  # noqa: S704  (our own file)
    return page.render(title=title, style=rules, sections=sections, kind=_kind) + "\n"


def plain(section: Section) -> dict[str, Any]:
    """A section as JSON: its sentences, its facts, and each table with every digit."""
    tables = {b.name: _rows(b.rows) for b in section.blocks if not isinstance(b, Text)}
    captions = {b.name: b.caption for b in section.blocks if not isinstance(b, Text)}
    texts = [Markup("{}").format(b.html).striptags() for b in section.blocks if isinstance(b, Text)]
    head = {"title": section.title, "lead": section.lead, "answered": section.answered}
    return head | {"facts": finite(section.facts), "texts": texts, "captions": captions, "tables": tables}


def _kind(block: Any) -> str:
    return "text" if isinstance(block, Text) else "table" if isinstance(block, Table) else "figure"


def tsv_of(rows: pd.DataFrame) -> str:
    """A table as the text of a TSV file."""
    return tsv_text(_texts(rows))


def _download(rows: pd.DataFrame) -> str:
    """A table as a TSV inside the page."""
    return "data:text/tab-separated-values;charset=utf-8;base64," + base64.b64encode(tsv_of(rows).encode()).decode()


def _looks_numeric(text: str) -> bool:
    """Whether a cell starts with a number, so that its column is set to the right."""
    return bool(text) and (text[0].isdigit() or text[0] in "+−<" or text == "n/a") and not text.startswith("−−")


def _rows(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [finite(row) for row in records(_texts(rows))]


def _texts(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with options and lists as the text of JSON, as tables of the results hold them."""
    held = [str(name) for name in rows if any(isinstance(value, (dict, list)) for value in rows[name])]
    return rows.assign(**{name: [canonical_json(value) for value in rows[name]] for name in held})


def finite(value: Any) -> Any:
    """JSON's own types, with null for what is missing."""
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (bool, int, float, str)) else str(value)
