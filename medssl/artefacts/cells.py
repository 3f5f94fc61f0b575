"""Conversion between the cells of a text table and plain values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medssl.artefacts.checks import AGAIN, refusal
from medssl.artefacts.column import JSON, Column
from medssl.core.errors import CorruptArtefactError
from medssl.core.files import canonical_json
from medssl.core.text_table import MISSING

_WHOLE = re.compile("-?[0-9]+")


def tsv_cells(path: Path | str, columns: Sequence[str] | None, where: str) -> dict[str, list[str | None]]:
    """All columns of a TSV table as text, or some of them; `n/a` is None.

    Raises:
        CorruptArtefactError: it is not a whole table.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise CorruptArtefactError(f"{where} is not a readable table ({error}). {AGAIN}") from None
    lines = text.split("\n")
    if len(lines) < 2 or lines[-1]:
        raise CorruptArtefactError(f"{where} does not end with a whole line: a part is missing. {AGAIN}")
    header, rows = lines[0].split("\t"), [line.split("\t") for line in lines[1:-1]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise CorruptArtefactError(f"{where}, line {number}: got {len(row)} cells; expected {len(header)}. {AGAIN}")
    if len(set(header)) < len(header):
        raise CorruptArtefactError(f"{where} has a column twice: got {', '.join(header)}. {AGAIN}")
    return {
        name: [None if row[place] == MISSING else row[place] for row in rows]
        for place, name in enumerate(header)
        if columns is None or name in columns
    }


def from_text(cells: Sequence[str | None], name: str, column: Column | None, where: str) -> list[Any]:
    """Convert a column of text to its values.

    Raises:
        CorruptArtefactError: a cell does not represent such a value.
    """
    if column is None:
        return _guessed(cells)
    if column.dtype == "str":
        return list(cells)
    if column.dtype in JSON:
        return [parsed(cell, column, where) for cell in cells]
    try:
        return [None if cell is None else _PARSERS[column.kind](cell) for cell in cells]
    except (ValueError, KeyError) as error:
        raise refusal(where, name, f"the cell {error}", column.described) from None


def to_text(values: Sequence[Any], column: Column | None) -> list[Any]:
    """Plain values of a column in the form that `core/text_table` writes: every number of a float column has a fraction."""
    if column is None:
        return list(values)
    if column.dtype in JSON and column.compact:
        return [None if value is None else canonical_json(value) for value in values]
    return [None if value is None else float(value) for value in values] if column.kind == "float" else list(values)


def _whole(cell: str) -> int:
    if not _WHOLE.fullmatch(cell):
        raise ValueError(repr(cell))
    return int(cell)


def _real(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError(repr(cell)) from None


_PARSERS: dict[str, Callable[[str], Any]] = {"int": _whole, "float": _real, "bool": {"true": True, "false": False}.__getitem__}


def _guessed(cells: Sequence[str | None]) -> list[Any]:
    """An additional column as truth values, numbers or text, inferred from all its cells."""
    known = [cell for cell in cells if cell is not None]
    parse: Callable[[str], Any] = str
    if known and set(known) <= {"true", "false"}:
        parse = _PARSERS["bool"]
    elif all(map(_is_number, known)):
        parse = _number
    return [None if cell is None else parse(cell) for cell in cells]


def _number(cell: str) -> int | float:
    return int(cell) if _WHOLE.fullmatch(cell) else float(cell)


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def parsed(cell: str | None, column: Column, where: str) -> Any:
    """The content of a JSON cell; None if it is missing.

    Raises:
        CorruptArtefactError: it is not JSON.
    """
    if cell is None:
        return None
    try:
        return json.loads(cell)
    except (ValueError, TypeError):
        raise refusal(where, column.name, f"the cell {str(cell)[:60]!r}", f"{column.described}, as JSON") from None
