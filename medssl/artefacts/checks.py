"""Whether the values of a column are what its schema says; the sentence where they are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from medssl.artefacts.column import JSON, TEXT, Column
from medssl.core.errors import CorruptArtefactError

AGAIN = "Delete the receipt of its folder and run the same command again."
_NOTHING = ("empty",)
_KINDS = {
    "str": ("string", *_NOTHING),
    "bytes": ("bytes", *_NOTHING),
    "bool": ("boolean", *_NOTHING),
    "int": ("integer", *_NOTHING),
    "float": ("floating", "integer", "mixed-integer-float", *_NOTHING),
}
"""By the first letters of a type, what pandas calls the values of an object column of it."""


def check_column(values: pd.Series, column: Column | None, name: str, where: str, *, exact: bool) -> None:
    """Refuse the values of a column that are not as its schema says; `exact`: in the width of numbers too, as Parquet keeps it.

    Raises:
        CorruptArtefactError: what was found, and what was expected.
    """
    if column is None:
        return
    refused = partial(refusal, where, name)
    missing = values.isna()
    if missing.any() and not column.nullable:
        raise refused(f"{int(missing.sum())} missing value(s)", f"{column.described} in every row")
    if column.dtype in JSON:
        for cell in values[~missing]:
            if not _is_of_shape(cell, column):
                raise refused(repr(cell)[:80], column.described)
        return
    if not _is_of_kind(values, column, exact=exact):
        found = values[~missing]
        example = f" such as {found.iloc[0]!r}" if values.dtype == object and len(found) else ""
        raise refused(f"{values.dtype}{example}", column.described)
    known = values[~missing]
    if column.choices and (strange := sorted(set(known.unique()) - set(column.choices))):
        raise refused(repr(strange[0]), f"one of {', '.join(column.choices)}")
    if column.form and len(known):
        wrong = ~known.astype(TEXT).str.fullmatch(column.form).astype(bool)
        if wrong.any():
            raise refused(repr(known[wrong.to_numpy()].iloc[0]), f"text of the form {column.form}")


def _is_of_kind(values: pd.Series, column: Column, *, exact: bool) -> bool:
    """Whether a column without lists is of its type; `exact`: in the width too, as Parquet keeps it."""
    if values.isna().all():
        return True
    if values.dtype == object:
        return pd.api.types.infer_dtype(values, skipna=True) in _KINDS[column.kind]
    is_kind = {
        "str": pd.api.types.is_string_dtype,
        "bool": pd.api.types.is_bool_dtype,
        "int": pd.api.types.is_integer_dtype,
        "float": pd.api.types.is_float_dtype if exact else pd.api.types.is_numeric_dtype,
        "bytes": lambda _: False,
    }[column.kind]
    same_width = not exact or column.kind not in ("int", "float") or str(values.dtype).lower() == column.dtype
    return bool(is_kind(values.dtype)) and same_width and not (column.kind == "float" and values.dtype == bool)


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


def order_of(frame: pd.DataFrame, by: Sequence[str]) -> tuple[bool, bool]:
    """Whether rows are in order by some columns, missing values last; and whether no two of them are equal there."""
    equal = np.ones(max(len(frame) - 1, 0), dtype=bool)
    for name in by:
        before, after = _ordered(frame[name].array, frame[name].isna().to_numpy())
        if (equal & after).any():
            return False, False
        equal &= ~before
    return True, not equal.any()


def _ordered(values: Any, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row but the last, whether its value comes before the next one's, and whether it comes after it."""
    first, second = values[:-1], values[1:]
    both = ~gone[:-1] & ~gone[1:]
    before, after = ~gone[:-1] & gone[1:], gone[:-1] & ~gone[1:]
    before[both] = np.asarray(first[both] < second[both], dtype=bool)
    after[both] = np.asarray(first[both] > second[both], dtype=bool)
    return before, after


def refusal(where: str, column: str, got: str, expected: str) -> CorruptArtefactError:
    """The error of a column: what is wrong, where, and what to do."""
    return CorruptArtefactError(f"{where}, column {column!r}: got {got}; expected {expected}. {AGAIN}")
