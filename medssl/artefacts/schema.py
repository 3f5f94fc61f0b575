"""What a table or a JSON file holds: columns and fields with type, unit and meaning; reading, writing and checking by them.

Cells that hold JSON become lists and dictionaries here, and text again, and nowhere else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medssl.core import tables
from medssl.core.errors import CorruptArtefactError
from medssl.core.files import canonical_json, read_json, write_json

DType = Literal["str", "bool", "int8", "int32", "int64", "uint64", "float32", "float64", "bytes", "list", "dict"]

Number = int | float
"""A number of a JSON file, whole or not as it was written."""

ID = "[a-z0-9]+(?:-[a-z0-9]+)*"
"""Every id: small letters, digits and single dashes."""
INSIDE = "(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*"
"""A path relative to the folder of its table, which it cannot leave."""
HASH = "[0-9a-f]+"
AGAIN = "Delete the receipt of its folder and run the same command again."

_JSON = ("list", "dict")
_WHOLE = re.compile("-?[0-9]+")
_NOTHING = ("empty",)
_KINDS = {
    "str": ("string", *_NOTHING),
    "bytes": ("bytes", *_NOTHING),
    "bool": ("boolean", *_NOTHING),
    "int": ("integer", *_NOTHING),
    "float": ("floating", "integer", "mixed-integer-float", *_NOTHING),
}
"""By the first letters of a type, what pandas calls the values of an object column of it."""


@dataclass(frozen=True)
class Column:
    """One column. A missing value is `n/a` in TSV, null in Parquet, and `None`, `NA` or NaN in memory.

    nullable: values may be missing; optional: the column may be; form: a regular expression of every text; choices: all texts
    that there may be; shape: of lists, such as `(3,)` or `(4, 4)`, any length where empty; item: what lists hold; compact: JSON
    without spaces.
    """

    name: str
    dtype: DType
    meaning: str
    unit: str = ""
    nullable: bool = False
    optional: bool = False
    form: str = ""
    choices: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    item: Literal["int", "float", "str"] = "float"
    compact: bool = False

    @property
    def kind(self) -> str:
        """The type without its width: `str`, `bool`, `int`, `float`, `bytes`, `list` or `dict`."""
        return re.sub("^u|[0-9]+$", "", self.dtype)

    @property
    def described(self) -> str:
        """The type in words: `list of 3 float`, `str or missing`."""
        words: str = self.dtype
        if self.dtype == "list":
            words = " ".join(["list of", " × ".join(map(str, self.shape)), self.item]).replace("  ", " ")
        return f"{words} or missing" if self.nullable else words


@dataclass(frozen=True)
class Family:
    """Columns whose names begin alike, one for each class or group: `prob_<class>`."""

    prefix: str
    column: Column
    """of each; its name stands for the rest, such as `<class>`"""

    def names(self, frame: pd.DataFrame) -> list[str]:
        """The columns of a table that are of the family, in order."""
        return [str(name) for name in frame if str(name).startswith(self.prefix)]


@dataclass(frozen=True)
class Table:
    """A table of the results: what its columns are, and how it is read, written and checked.

    sorted_by: columns by which rows are in order; unique: columns of which no two rows have the same values; others: what
    further columns mean that plug-ins may add, none where empty.
    """

    file: str
    folder: str
    meaning: str
    columns: tuple[Column, ...]
    families: tuple[Family, ...] = ()
    others: str = ""
    sorted_by: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()

    @property
    def is_tsv(self) -> bool:
        """Whether it is tab separated text; else it is Parquet."""
        return self.file.endswith(".tsv")

    @property
    def names(self) -> list[str]:
        """The named columns, in order."""
        return [column.name for column in self.columns]

    def read(self, path: Path | str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The table of a file, or some of its columns; lists and dictionaries are those.

        Raises:
            CorruptArtefactError: it is not a table of this kind.
        """
        read = _read_tsv if self.is_tsv else _read_parquet
        raw = read(path, list(columns) if columns is not None else None, str(path))
        frame = pd.DataFrame(
            {name: self._decoded(raw[name], self.column(name, str(path)), str(path)) for name in raw.columns}, index=raw.index
        )
        if not self.is_tsv:
            frame.attrs = raw.attrs
        self.check(frame, path, columns=columns)
        return frame

    def write(self, path: Path | str, frame: pd.DataFrame) -> None:
        """Write a table all or nothing, its columns in the order in which they stand; `read` gives it back.

        Raises:
            CorruptArtefactError: it is not a table of this kind; nothing was written.
        """
        self.check(frame, path)
        where = str(path)
        coded = frame.assign(**{str(name): self._coded(frame[name], self.column(str(name), where)) for name in frame.columns})
        (tables.write_tsv if self.is_tsv else tables.write_parquet)(path, coded)

    def check(self, frame: pd.DataFrame, where: Path | str = "", *, columns: Sequence[str] | None = None) -> None:
        """Refuse what is not a table of this kind. `where`: its file; `columns`: those that were asked for.

        Raises:
            CorruptArtefactError: which column, what was found, what was expected, what to do.
        """
        place = str(where) or self.file
        needed = [c.name for c in self.columns if not c.optional] if columns is None else list(columns)
        missing = [name for name in needed if name not in frame]
        if missing:
            raise CorruptArtefactError(
                f"{place} has no column {missing[0]!r}: got {', '.join(map(str, frame.columns)) or 'none'}; expected "
                f"{', '.join(needed)}. {AGAIN}"
            )
        twice = frame.columns[frame.columns.duplicated()]
        if len(twice):
            raise _refusal(place, str(twice[0]), "the column twice", "it once")
        for name in frame.columns:
            _check_column(frame[name], self.column(str(name), place), str(name), place, exact=not self.is_tsv)
        present = set(frame.columns)
        keys = [name for name in self.unique if name in present or not _is_optional(self.column(name))]
        if keys and present >= set(keys) and (again := frame.duplicated(keys)).any():
            row = frame.loc[again, keys].iloc[0].tolist()
            raise _refusal(place, keys[0], f"{row} in two rows", f"each {', '.join(keys)} once")
        if self.sorted_by and present >= set(self.sorted_by) and not _is_sorted(frame, self.sorted_by):
            raise _refusal(place, self.sorted_by[0], "rows out of order", f"rows sorted by {', '.join(self.sorted_by)}")

    def empty(self) -> pd.DataFrame:
        """The table without rows: all columns, each of its type."""
        return pd.DataFrame({c.name: pd.Series(dtype=_memory_dtype(c, tsv=self.is_tsv)) for c in self.columns if not c.optional})

    def column(self, name: str, where: str = "") -> Column | None:
        """The column of a name, also one of a family; None for a further one.

        Raises:
            CorruptArtefactError: there is no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        for family in self.families:
            if name.startswith(family.prefix):
                return family.column
        if self.others:
            return None
        raise CorruptArtefactError(
            f"{where or self.file} has a column {name!r} that is not known; expected {', '.join(self.names)}. {AGAIN}"
        )

    def _decoded(self, raw: pd.Series, column: Column | None, where: str) -> pd.Series:
        """A column of a file as it is in memory."""
        if self.is_tsv:
            return _from_text(raw, column, where)
        if column is None or column.dtype not in _JSON:
            return raw
        return pd.Series([_parsed(cell, column, where) for cell in raw], index=raw.index, dtype=object)

    def _coded(self, values: pd.Series, column: Column | None) -> pd.Series:
        """A column as its file holds it."""
        if column is None:
            return values
        if column.dtype in _JSON and (column.compact or not self.is_tsv):
            to_text: Callable[[Any], str] = canonical_json if column.compact else json.dumps
            texts = [None if _is_missing(cell) else to_text(cell) for cell in values]
            return pd.Series(texts, index=values.index, dtype=object if self.is_tsv else _TEXT)
        if self.is_tsv and column.kind == "float":
            return values.astype(np.float64)
        return values


class Document(BaseModel):
    """A JSON file with named fields; a field that was not given is not written, so that reading and writing keep every byte."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    FILE: ClassVar[str] = ""
    FOLDER: ClassVar[str] = ""
    MEANING: ClassVar[str] = ""

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """The content of a file.

        Raises:
            CorruptArtefactError: it is not of this kind.
        """
        try:
            return cls.check(read_json(path), path)
        except (ValueError, OSError) as error:
            raise CorruptArtefactError(f"{path} is not a readable JSON file ({error}). {AGAIN}") from None

    def write(self, path: Path | str) -> None:
        """Write it all or nothing; `read` gives it back."""
        write_json(path, self.plain())

    @classmethod
    def check(cls, value: Any, where: Path | str = "") -> Self:
        """The document that plain values are of. `where`: its file.

        Raises:
            CorruptArtefactError: which field, what was found, what was expected, what to do.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the whole"
            got = repr(first["input"])
            raise CorruptArtefactError(
                f"{where or cls.FILE}, {field}: {first['msg']}, got {got if len(got) < 100 else got[:100] + '…'}. {AGAIN}"
            ) from None

    def plain(self) -> dict[str, Any]:
        """The fields that were given, as plain values."""
        return self.model_dump(exclude_unset=True)


def meant(meaning: str, unit: str = "", **more: Any) -> Any:
    """A field of a `Document` with its meaning and unit."""
    return Field(description=meaning, json_schema_extra={"unit": unit}, **more)


# Reading


def _read_tsv(path: Path | str, columns: list[str] | None, where: str) -> pd.DataFrame:
    """All cells as text; `n/a` is None."""
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


def _read_parquet(path: Path | str, columns: list[str] | None, where: str) -> pd.DataFrame:
    import pyarrow

    try:
        return tables.read_parquet(path, columns)
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise CorruptArtefactError(f"{where} is not a readable table ({error}). {AGAIN}") from None


_TEXT = pd.StringDtype("pyarrow", na_value=np.nan)


def _memory_dtype(column: Column, *, tsv: bool) -> Any:
    if column.kind == "int" and column.nullable:
        return "Int64" if column.dtype == "int64" else f"{column.dtype[:-2].capitalize()}{column.dtype[-2:]}"
    if column.kind in ("int", "float"):
        return column.dtype
    if column.kind == "bool":
        return "boolean" if column.nullable else "bool"
    return _TEXT if column.kind == "str" and not tsv else object


def _from_text(raw: pd.Series, column: Column | None, where: str) -> pd.Series:
    """A column of text as what it stands for."""
    if column is None:
        return _guessed(raw)
    if column.dtype == "str":
        return raw
    if column.dtype in _JSON:
        return pd.Series([_parsed(cell, column, where) for cell in raw], index=raw.index, dtype=object)
    try:
        values = [None if cell is None else _PARSERS[column.kind](cell) for cell in raw]
    except (ValueError, KeyError) as error:
        raise _refusal(where, str(raw.name), f"the cell {error}", column.described) from None
    missing = None in values
    if missing and column.kind != "float":
        nullable = {"int": "Int64", "bool": "boolean"}[column.kind]
        return pd.Series(values, index=raw.index, dtype=nullable)  # a missing value that may not be is for `check` to say
    return pd.Series(values, index=raw.index, dtype=_memory_dtype(column, tsv=True))


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


def _parsed(cell: Any, column: Column, where: str) -> Any:
    if _is_missing(cell):
        return None
    try:
        return json.loads(cell)
    except (ValueError, TypeError):
        raise _refusal(where, column.name, f"the cell {str(cell)[:60]!r}", f"{column.described}, as JSON") from None


# Checking


def _is_optional(column: Column | None) -> bool:
    return column is not None and column.optional


def _check_column(values: pd.Series, column: Column | None, name: str, where: str, *, exact: bool) -> None:
    if column is None:
        return
    refused = partial(_refusal, where, name)
    missing = values.isna()
    if missing.any() and not column.nullable:
        raise refused(f"{int(missing.sum())} missing value(s)", f"{column.described} in every row")
    if column.dtype in _JSON:
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
        wrong = ~known.astype(_TEXT).str.fullmatch(column.form).astype(bool)
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


def _is_sorted(frame: pd.DataFrame, by: Sequence[str]) -> bool:
    """Whether rows are in order, missing values last."""
    if len(frame) < 2:
        return True
    equal = np.ones(len(frame) - 1, dtype=bool)
    for name in by:
        values, gone = frame[name].to_numpy(dtype=object), frame[name].isna().to_numpy()
        before, after = _ordered(values, gone)
        if (equal & after).any():
            return False
        equal &= ~before
    return True


def _ordered(values: np.ndarray, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row but the last, whether its value comes before the next one's, and whether it comes after it."""
    first, second = values[:-1], values[1:]
    both = ~gone[:-1] & ~gone[1:]
    before, after = ~gone[:-1] & gone[1:], gone[:-1] & ~gone[1:]
    before[both] = first[both] < second[both]
    after[both] = first[both] > second[both]
    return before, after


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NA or (isinstance(cell, float) and math.isnan(cell))


def _refusal(where: str, column: str, got: str, expected: str) -> CorruptArtefactError:
    return CorruptArtefactError(f"{where}, column {column!r}: got {got}; expected {expected}. {AGAIN}")


def fields_of(document: type[BaseModel], before: str = "") -> Iterator[tuple[str, Any, str, str]]:
    """Name, annotation, unit and meaning of every field of a document and of the documents in it, outer ones first."""
    for name, field in document.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        yield f"{before}{name}", field.annotation, str(extra.get("unit", "")), field.description or ""
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields_of(field.annotation, f"{before}{name}.")
