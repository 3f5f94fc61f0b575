"""Checks that the values of a column match its schema and that rows are sorted and unique; the sentence if not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from medssl.artefacts.column import JSON, Column
from medssl.core.errors import CorruptArtefactError

if TYPE_CHECKING:
    from medssl.artefacts.schema import Table

AGAIN = "Delete the receipt of its folder and run the same command again."
_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "bytes": (bytes,), "bool": (bool,), "int": (int,), "float": (int, float)}
"""By the first letters of a column's type, the Python types of its values; a truth value is not a number."""


def check_names(table: Table, names: Sequence[str], where: str, columns: Sequence[str] | None = None) -> None:
    """Refuse a table that lacks a column or has an unknown one; `columns`: those asked for, else all.

    Raises:
        CorruptArtefactError: which one.
    """
    needed = [c.name for c in table.columns if not c.optional] if columns is None else list(columns)
    missing = [name for name in needed if name not in names]
    if missing:
        raise CorruptArtefactError(
            f"{where} has no column {missing[0]!r}: got {', '.join(names) or 'none'}; expected {', '.join(needed)}. {AGAIN}"
        )
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise refusal(where, twice[0], "the column twice", "it once")
    for name in names:
        table.column(name, where)


def check_cells(table: Table, cells: Mapping[str, Sequence[Any]], where: str) -> None:
    """Refuse a table of plain values by column name whose values do not match; None stands for a missing value.

    Raises:
        CorruptArtefactError: what was found, and what was expected.
    """
    for name, values in cells.items():
        column = table.column(name, where)
        if column is not None:
            _check_values(values, column, partial(refusal, where, name))
    in_order = True
    if table.sorted_by and set(cells) >= set(table.sorted_by):
        places = [_place(row) for row in zip(*(cells[name] for name in table.sorted_by), strict=True)]
        in_order = all(before <= after for before, after in pairwise(places))
    if keys := unique_columns(table, cells):
        seen: set[Any] = set()
        for row in zip(*(cells[name] for name in keys), strict=True):
            if row in seen:
                raise in_two_rows(where, keys, list(row))
            seen.add(row)
    if not in_order:
        raise out_of_order(where, table)


def _check_values(values: Sequence[Any], column: Column, refused: Callable[[str, str], CorruptArtefactError]) -> None:
    known = [value for value in values if value is not None]
    if len(known) < len(values) and not column.nullable:
        raise refused(*missing_values(len(values) - len(known), column))
    if column.dtype in JSON:
        check_json(known, column, refused)
        return
    kinds = _KINDS[column.kind]
    for value in known:
        if not isinstance(value, kinds) or (isinstance(value, bool) and column.kind != "bool"):
            raise refused(repr(value)[:80], column.described)
    if column.choices and (strange := sorted(set(known) - set(column.choices))):
        raise refused(*no_choice(strange[0], column))
    if column.form:
        fits = re.compile(column.form).fullmatch
        if wrong := next((value for value in known if not fits(value)), None):
            raise refused(*no_form(wrong, column))


def check_json(known: Iterable[Any], column: Column, refused: Callable[[str, str], CorruptArtefactError]) -> None:
    """Refuse lists and dictionaries that do not match the column."""
    for cell in known:
        if not _is_of_shape(cell, column):
            raise refused(repr(cell)[:80], column.described)


def _is_of_shape(cell: Any, column: Column) -> bool:
    if column.dtype == "dict":
        return isinstance(cell, dict)
    if not isinstance(cell, list):
        return False
    if not column.shape:
        return all(_is_item(item, column.item) for item in cell)
    shape, items = column.shape, [cell]
    for length in shape:
        if any(not isinstance(item, list) or len(item) != length for item in items):
            return False
        items = [one for item in items for one in item]
    return all(_is_item(item, column.item) for item in items)


def _is_item(item: Any, kind: str) -> bool:
    if kind == "str":
        return isinstance(item, str)
    number = isinstance(item, int) and not isinstance(item, bool)
    return number or (kind == "float" and isinstance(item, float) and math.isfinite(item))


def _place(row: tuple[Any, ...]) -> tuple[tuple[bool, Any], ...]:
    """The sort key of a row: missing values last."""
    return tuple((value is None, 0 if value is None else value) for value in row)


def unique_columns(table: Table, names: Iterable[str]) -> tuple[str, ...]:
    """The columns in which no two rows may be equal, of a table with these columns; empty if a required one is absent."""
    here = set(names)
    absent = {column.name for column in table.columns if column.optional} - here
    keys = tuple(name for name in table.unique if name not in absent)
    return keys if here >= set(keys) else ()


# ---- messages


def missing_values(count: int, column: Column) -> tuple[str, str]:
    """Got and expected, for missing values in a column that allows none."""
    return f"{count} missing value(s)", f"{column.described} in every row"


def no_choice(value: Any, column: Column) -> tuple[str, str]:
    """Got and expected, for a word that is not among the column's choices."""
    return repr(value), f"one of {', '.join(column.choices)}"


def no_form(value: Any, column: Column) -> tuple[str, str]:
    """Got and expected, for a text of another form."""
    return repr(value), f"text of the form {column.form}"


def in_two_rows(where: str, keys: tuple[str, ...], row: list[Any]) -> CorruptArtefactError:
    """The error for two rows that are equal in `keys`."""
    return refusal(where, keys[0], f"{row} in two rows", f"each {', '.join(keys)} once")


def out_of_order(where: str, table: Table) -> CorruptArtefactError:
    """The error for rows that are not sorted."""
    return refusal(where, table.sorted_by[0], "rows out of order", f"rows sorted by {', '.join(table.sorted_by)}")


def refusal(where: str, column: str, got: str, expected: str) -> CorruptArtefactError:
    """The error for a column: what is wrong, where, and what to do."""
    return CorruptArtefactError(f"{where}, column {column!r}: got {got}; expected {expected}. {AGAIN}")
