"""Tables as data frames: reading, writing and checking them by their schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow

from medssl.artefacts import checks
from medssl.artefacts.cells import parsed
from medssl.artefacts.checks import AGAIN
from medssl.artefacts.column import JSON, Column
from medssl.core import tables
from medssl.core.errors import CorruptArtefactError
from medssl.core.files import canonical_json

if TYPE_CHECKING:
    from medssl.artefacts.schema import Table

TEXT = pd.StringDtype("pyarrow", na_value=np.nan)
"""The pandas type of text."""


def read(table: Table, path: Path | str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table of a file, or some of its columns; lists and dictionaries are decoded.

    Raises:
        CorruptArtefactError: it is not a table of this kind.
    """
    where = str(path)
    if table.is_tsv:
        cells = table.read_cells(path, columns)
        return pd.DataFrame({name: _of_cells(values, table.column(name, where)) for name, values in cells.items()})
    try:
        raw = tables.read_parquet(path, list(columns) if columns is not None else None)
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise CorruptArtefactError(f"{where} is not a readable table ({error}). {AGAIN}") from None
    frame = raw.assign(**{str(name): _decoded(raw[name], table.column(str(name), where), where) for name in raw.columns})
    frame.attrs = raw.attrs
    check(table, frame, where, columns)
    return frame


def write(table: Table, path: Path | str, frame: pd.DataFrame) -> None:
    """Write a table all or nothing, with its columns in their present order.

    Raises:
        CorruptArtefactError: it is not a table of this kind; nothing was written.
    """
    where = str(path)
    if table.is_tsv:
        _check_names(table, frame, where, None)
        table.write_cells(path, tables.cells_of(frame))
        return
    check(table, frame, where)
    coded = {str(name): _coded(frame[name], table.column(str(name), where)) for name in frame.columns}
    tables.write_parquet(path, frame.assign(**coded))


def check(table: Table, frame: pd.DataFrame, where: str, columns: Sequence[str] | None = None) -> None:
    """Refuse a frame that is not a table of this kind.

    Raises:
        CorruptArtefactError: which column, what was found, what was expected, what to do.
    """
    _check_names(table, frame, where, columns)
    if table.is_tsv:
        checks.check_cells(table, tables.cells_of(frame), where)
        return
    for name in frame.columns:
        _check_column(frame[name], table.column(str(name), where), str(name), where)
    in_order, all_different = order_of(frame, table.sorted_by) if set(frame.columns) >= set(table.sorted_by) else (True, False)
    keys = checks.unique_columns(table, map(str, frame.columns))
    known = keys == table.sorted_by and in_order and all_different  # then nothing is left to check
    if keys and not known and (again := frame.duplicated(list(keys))).any():
        raise checks.in_two_rows(where, keys, frame.loc[again, list(keys)].iloc[0].tolist())
    if not in_order:
        raise checks.out_of_order(where, table)


def empty(table: Table) -> pd.DataFrame:
    """The table without rows: all columns with their types."""
    return pd.DataFrame({c.name: pd.Series(dtype=type_of(c, text=table.is_tsv)) for c in table.columns if not c.optional})


def type_of(column: Column, *, text: bool) -> Any:
    """The pandas type of a column as it is read; `text`: whether the table is text."""
    if column.kind == "int" and column.nullable:
        return column.dtype.replace("uint", "UInt") if column.dtype.startswith("u") else column.dtype.replace("int", "Int")
    if column.kind in ("int", "float"):
        return column.dtype
    if column.kind == "bool":
        return "boolean" if column.nullable else "bool"
    return TEXT if column.kind == "str" and not text else object


def _check_names(table: Table, frame: pd.DataFrame, where: str, columns: Sequence[str] | None) -> None:
    checks.check_names(table, [str(name) for name in frame.columns], where, columns)


# ---- cells and columns


def _of_cells(values: list[Any], column: Column | None) -> pd.Series:
    """Plain values of a text table as a column; an additional column takes the type of its values."""
    if column is not None:
        return pd.Series(values, dtype=type_of(column, text=True))
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean" if None in values else "bool")
    return pd.Series(values, dtype="Int64" if kinds == {int} else np.float64 if kinds == {float} else object)


def _decoded(raw: pd.Series, column: Column | None, where: str) -> pd.Series:
    """A column of a Parquet file in its form in memory."""
    if column is None or column.dtype not in JSON:
        return raw
    cells = [None if gone else parsed(cell, column, where) for cell, gone in zip(raw, raw.isna(), strict=True)]
    return pd.Series(cells, index=raw.index, dtype=object)


def _coded(values: pd.Series, column: Column | None) -> pd.Series:
    """A column in its form in a Parquet file."""
    if column is None:
        return values
    if column.dtype in JSON:
        to_text: Callable[[Any], str] = canonical_json if column.compact else json.dumps
        texts = [None if gone else to_text(cell) for cell, gone in zip(values, values.isna(), strict=True)]
        return pd.Series(texts, index=values.index, dtype=TEXT)
    if column.kind == "str" and values.dtype == object and values.notna().any():
        return values.astype(TEXT)  # pandas records the type of the column too, and equal content must give equal bytes
    return values


# ---- columns of Parquet


_NOTHING = ("empty",)
_KINDS = {
    "str": ("string", *_NOTHING),
    "bytes": ("bytes", *_NOTHING),
    "bool": ("boolean", *_NOTHING),
    "int": ("integer", *_NOTHING),
    "float": ("floating", "integer", "mixed-integer-float", *_NOTHING),
}
"""By the first letters of a column's type, pandas' name for the values of an object column."""


def _check_column(values: pd.Series, column: Column | None, name: str, where: str) -> None:
    """Refuse the values of a column that do not match its schema, including the width of numbers, which Parquet keeps.

    Raises:
        CorruptArtefactError: what was found, and what was expected.
    """
    if column is None:
        return
    refused = partial(checks.refusal, where, name)
    missing = values.isna()
    if missing.any() and not column.nullable:
        raise refused(*checks.missing_values(int(missing.sum()), column))
    known = values[~missing]
    if column.dtype in JSON:
        checks.check_json(known, column, refused)
        return
    if not _is_of_kind(values, column):
        example = f" such as {known.iloc[0]!r}" if values.dtype == object and len(known) else ""
        raise refused(f"{values.dtype}{example}", column.described)
    if column.choices and (strange := sorted(set(known.unique()) - set(column.choices))):
        raise refused(*checks.no_choice(strange[0], column))
    if column.form and len(known):
        wrong = ~known.astype(TEXT).str.fullmatch(column.form).astype(bool)
        if wrong.any():
            raise refused(*checks.no_form(known[wrong.to_numpy()].iloc[0], column))


def _is_of_kind(values: pd.Series, column: Column) -> bool:
    """Whether a column without lists has its type."""
    if values.isna().all():
        return True
    if values.dtype == object:
        return pd.api.types.infer_dtype(values, skipna=True) in _KINDS[column.kind]
    is_kind = {
        "str": pd.api.types.is_string_dtype,
        "bool": pd.api.types.is_bool_dtype,
        "int": pd.api.types.is_integer_dtype,
        "float": pd.api.types.is_float_dtype,
        "bytes": lambda _: False,
    }[column.kind]
    same_width = column.kind not in ("int", "float") or str(values.dtype).lower() == column.dtype
    return bool(is_kind(values.dtype)) and same_width


def order_of(frame: pd.DataFrame, by: Sequence[str]) -> tuple[bool, bool]:
    """Whether rows are sorted by some columns, missing values last, and whether they are all different there."""
    equal = np.ones(max(len(frame) - 1, 0), dtype=bool)
    for name in by:
        before, after = _ordered(frame[name].array, frame[name].isna().to_numpy())
        if (equal & after).any():
            return False, False
        equal &= ~before
    return True, not equal.any()


def _ordered(values: Any, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row but the last, whether its value precedes the next one's, and whether it follows it."""
    first, second = values[:-1], values[1:]
    both = ~gone[:-1] & ~gone[1:]
    before, after = ~gone[:-1] & gone[1:], gone[:-1] & ~gone[1:]
    before[both] = np.asarray(first[both] < second[both], dtype=bool)
    after[both] = np.asarray(first[both] > second[both], dtype=bool)
    return before, after
