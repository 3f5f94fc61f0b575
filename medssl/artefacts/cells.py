"""From the cells of a file to the columns of a table in memory."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.artefacts.checks import AGAIN, refusal
from medssl.artefacts.column import JSON, Column
from medssl.core import tables
from medssl.core.errors import CorruptArtefactError

_WHOLE = re.compile("-?[0-9]+")


def tsv_cells(path: Path | str, columns: list[str] | None, where: str) -> pd.DataFrame:
    """All cells of a TSV table as text, or those of some columns; `n/a` is None.

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
    wanted = header if columns is None else [name for name in header if name in columns]
    cells: dict[str, list[str | None]] = {
        name: [None if row[place] == tables.MISSING else row[place] for row in rows]
        for place, name in enumerate(header)
        if name in wanted
    }
    if len(set(header)) < len(header):
        raise CorruptArtefactError(f"{where} has a column twice: got {', '.join(header)}. {AGAIN}")
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()}, columns=wanted)


def parquet_table(path: Path | str, columns: list[str] | None, where: str) -> pd.DataFrame:
    """A Parquet table, or some of its columns.

    Raises:
        CorruptArtefactError: it is not one, or lacks one of them.
    """
    import pyarrow

    try:
        return tables.read_parquet(path, columns)
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise CorruptArtefactError(f"{where} is not a readable table ({error}). {AGAIN}") from None


def from_text(raw: pd.Series, column: Column | None, where: str) -> pd.Series:
    """A column of text as what it stands for."""
    if column is None:
        return _guessed(raw)
    if column.dtype == "str":
        return raw
    if column.dtype in JSON:
        return pd.Series([parsed(cell, column, where) for cell in raw], index=raw.index, dtype=object)
    try:
        values = [None if cell is None else _PARSERS[column.kind](cell) for cell in raw]
    except (ValueError, KeyError) as error:
        raise refusal(where, str(raw.name), f"the cell {error}", column.described) from None
    missing = None in values
    if missing and column.kind != "float":
        nullable = {"int": "Int64", "bool": "boolean"}[column.kind]
        return pd.Series(values, index=raw.index, dtype=nullable)  # a missing value that may not be is for `check` to say
    return pd.Series(values, index=raw.index, dtype=column.in_memory(text=True))


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


def _guessed(raw: pd.Series) -> pd.Series:
    """A further column: whole numbers, numbers, truth values or text, by what its cells look like."""
    known = [cell for cell in raw if cell is not None]
    if not known:
        return raw
    if set(known) <= {"true", "false"}:
        return raw.map({"true": True, "false": False}).astype("boolean" if len(known) < len(raw) else "bool")
    if all(map(_WHOLE.fullmatch, known)):
        return raw.map(int, na_action="ignore").astype("Int64")
    try:
        numbers = [None if cell is None else int(cell) if _WHOLE.fullmatch(cell) else float(cell) for cell in raw]
    except ValueError:
        return raw
    mixed = any(isinstance(number, int) for number in numbers)
    return pd.Series(numbers, index=raw.index, dtype=object if mixed else np.float64)


def parsed(cell: Any, column: Column, where: str) -> Any:
    """What a cell of JSON holds; None where it is missing.

    Raises:
        CorruptArtefactError: it is not JSON.
    """
    if is_missing(cell):
        return None
    try:
        return json.loads(cell)
    except (ValueError, TypeError):
        raise refusal(where, column.name, f"the cell {str(cell)[:60]!r}", f"{column.described}, as JSON") from None


def is_missing(cell: Any) -> bool:
    """Whether a value stands for a missing one."""
    return cell is None or cell is pd.NA or (isinstance(cell, float) and math.isnan(cell))
