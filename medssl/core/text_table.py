"""Tables as tab separated text for people, from plain values. Equal content gives equal bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medssl.core.files import write_text

MISSING = "n/a"


def write_rows(target: Path | str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table: tab separated, `n/a` for missing, `true|false`, lists as JSON, floats with full precision."""
    write_text(target, text_of(names, rows))


def text_of(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The text of a table, as `write_rows` writes it."""
    return "\n".join(["\t".join(names), *("\t".join(map(_cell, row)) for row in rows)]) + "\n"


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, sort_keys=True)
    text = repr(value) if isinstance(value, float) else str(value)
    return text.replace("\t", " ").replace("\n", " ").replace("\r", " ")
