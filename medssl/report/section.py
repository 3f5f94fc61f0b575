"""What a section of the page is made of: sentences, tables and figures, each with the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from markupsafe import Markup

from medssl.core.tables import MISSING
from medssl.report.drawings import Charts, Drawing, Sheets, Tiles

NOT_GIVEN = "Not given."
MINUS = "−"
NARROW = "\u202f"


@dataclass(frozen=True)
class Text:
    """A paragraph, or HTML of its own; `kind` says how it looks."""

    html: str | Markup
    kind: str = "plain"
    """plain, note, claim, detail, copy, code or html"""


@dataclass(frozen=True)
class Table:
    """A table for reading (`shown`, formatted) and for download (`rows`, every digit)."""

    name: str
    caption: str
    rows: pd.DataFrame
    shown: pd.DataFrame
    folded: bool = False
    head: int = 1


@dataclass(frozen=True)
class Figure:
    """A drawing or pictures with a text for those who cannot see it, and the table behind it."""

    name: str
    caption: str
    alt: str
    body: Drawing
    rows: pd.DataFrame
    legend: tuple[tuple[str, str], ...] = ()
    wide: bool = True

    @property
    def tall(self) -> bool:
        """Whether it may continue over pages of paper: rows of tiles can be divided, a chart cannot."""
        return isinstance(self.body, (Tiles, Sheets)) or (isinstance(self.body, Charts) and len(self.body.charts) > 1)


@dataclass(frozen=True)
class Section:
    """One part of the page. `facts` holds, unrounded, each number that its sentences name."""

    title: str
    lead: str
    blocks: tuple[Text | Table | Figure, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    answered: bool = True

    @classmethod
    def not_given(cls, title: str, why: str) -> Section:
        """The section of a stage that left nothing."""
        return cls(title, f"{NOT_GIVEN} {why}", answered=False)


def number(value: Any, digits: int = 3, *, sign: bool = False) -> str:
    """`0.912`, `−0.010`, `+0.034`, `n/a`."""
    if _missing(value):
        return MISSING
    text = f"{float(value):+.{digits}f}" if sign else f"{float(value):.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def count(value: Any) -> str:
    """`1 234` with a narrow, unbreakable space between thousands."""
    return MISSING if _missing(value) else f"{int(value):,}".replace(",", NARROW)


def counted(value: Any, one: str, many: str = "") -> str:
    """`1 file`, `23 files`."""
    return f"{count(value)} {one if int(value) == 1 else many or one + 's'}"


def percent(value: Any, digits: int = 0) -> str:
    """`5 %` of a fraction; more digits where needed to tell it from 0."""
    if _missing(value):
        return MISSING
    share = 100 * float(value)
    if share and abs(share) < 1 and digits == 0:
        digits = 1 if abs(share) >= 0.1 else 2
    return f"{share:.{digits}f}{NARROW}%".replace("-", MINUS)


def p_value(value: Any) -> str:
    """`0.034`, `< 0.001`."""
    if _missing(value):
        return MISSING
    return "< 0.001" if float(value) < 0.001 else f"{float(value):.3f}"


def span(low: Any, high: Any, digits: int = 3, *, sign: bool = False) -> str:
    """`0.88 to 0.94`, or `n/a`."""
    if _missing(low) or _missing(high):
        return MISSING
    return f"{number(low, digits, sign=sign)} to {number(high, digits, sign=sign)}"


def duration(seconds: Any) -> str:
    """`42 s`, `3.5 min`, `2.1 h`."""
    if _missing(seconds):
        return MISSING
    value = float(seconds)
    if value < 90:
        return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def shown(rows: pd.DataFrame, columns: Sequence[tuple[str, str, Callable[..., str] | None]]) -> pd.DataFrame:
    """The columns of `rows` for reading: (column, heading, how to write a value)."""
    made = {}
    for name, heading, write in columns:
        made[heading] = [(write or _plain)(value) for value in rows[name]]
    return pd.DataFrame(made, dtype=object)


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each as column → value."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _plain(value: Any) -> str:
    return MISSING if _missing(value) else str(value)


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
