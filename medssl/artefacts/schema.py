"""What a table holds: columns with type, unit and meaning; reading, writing and checking by them.

Cells that hold JSON become lists and dictionaries here, and text again, and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.artefacts.cells import from_text, is_missing, parquet_table, parsed, tsv_cells
from medssl.artefacts.checks import AGAIN, check_column, order_of, refusal
from medssl.artefacts.column import JSON, TEXT, Column
from medssl.core import tables
from medssl.core.errors import CorruptArtefactError
from medssl.core.files import canonical_json


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

    sorted_by: columns by which rows are in order; unique: columns of which no two rows have the same values,
    an optional one only where it is there; others: what
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
        read = tsv_cells if self.is_tsv else parquet_table
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
            raise refusal(place, str(twice[0]), "the column twice", "it once")
        for name in frame.columns:
            check_column(frame[name], self.column(str(name), place), str(name), place, exact=not self.is_tsv)
        in_order, all_different = order_of(frame, self.sorted_by) if set(frame.columns) >= set(self.sorted_by) else (True, False)
        absent = {column.name for column in self.columns if column.optional} - set(frame.columns)
        keys = tuple(name for name in self.unique if name not in absent)
        known = keys == self.sorted_by and in_order and all_different  # then nothing is left to look for
        if keys and not known and set(frame.columns) >= set(keys) and (again := frame.duplicated(list(keys))).any():
            row = frame.loc[again, list(keys)].iloc[0].tolist()
            raise refusal(place, keys[0], f"{row} in two rows", f"each {', '.join(keys)} once")
        if not in_order:
            raise refusal(place, self.sorted_by[0], "rows out of order", f"rows sorted by {', '.join(self.sorted_by)}")

    def empty(self) -> pd.DataFrame:
        """The table without rows: all columns, each of its type."""
        return pd.DataFrame({c.name: pd.Series(dtype=c.in_memory(text=self.is_tsv)) for c in self.columns if not c.optional})

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
            return from_text(raw, column, where)
        if column is None or column.dtype not in JSON:
            return raw
        return pd.Series([parsed(cell, column, where) for cell in raw], index=raw.index, dtype=object)

    def _coded(self, values: pd.Series, column: Column | None) -> pd.Series:
        """A column as its file holds it."""
        if column is None:
            return values
        if column.dtype in JSON and (column.compact or not self.is_tsv):
            to_text: Callable[[Any], str] = canonical_json if column.compact else json.dumps
            texts = [None if is_missing(cell) else to_text(cell) for cell in values]
            return pd.Series(texts, index=values.index, dtype=object if self.is_tsv else TEXT)
        if self.is_tsv and column.kind == "float":
            return values.astype(np.float64)
        if not self.is_tsv and column.kind == "str" and values.dtype == object and values.notna().any():
            return values.astype(TEXT)  # pandas writes down the type of the column too, and equal content is equal bytes
        return values
