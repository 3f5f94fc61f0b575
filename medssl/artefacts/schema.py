"""The schema of a table: columns with type, unit and meaning; reading, writing and checking by them.

JSON cells are converted to lists and dictionaries, and back to text, only here. Text tables are read as plain values by column,
so that a stage which needs no more starts without pandas; `frames.py` makes data frames of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.artefacts.cells import from_text, to_text, tsv_cells
from medssl.artefacts.checks import AGAIN, check_cells, check_names
from medssl.artefacts.column import Column
from medssl.core import text_table
from medssl.core.errors import CorruptArtefactError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Family:
    """Columns with a common prefix, one for each class or group: `prob_<class>`."""

    prefix: str
    column: Column
    """of each; its name describes the rest, such as `<class>`"""

    def names(self, frame: pd.DataFrame) -> list[str]:
        """The columns of a table that belong to the family, in order."""
        return [str(name) for name in frame if str(name).startswith(self.prefix)]


@dataclass(frozen=True)
class Table:
    """A table of the results: its columns, and how it is read, written and checked.

    sorted_by: columns that rows are sorted by; unique: columns in which no two rows are equal, an optional one only if it is
    there;
    others: the meaning of additional columns from plug-ins, empty if there may be none.
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
        """Whether it is tab separated text; otherwise it is Parquet."""
        return self.file.endswith(".tsv")

    @property
    def names(self) -> list[str]:
        """The named columns, in order."""
        return [column.name for column in self.columns]

    def read(self, path: Path | str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The table of a file, or some of its columns; lists and dictionaries are decoded.

        Raises:
            CorruptArtefactError: it is not a table of this kind.
        """
        from medssl.artefacts import frames

        return frames.read(self, path, columns)

    def read_rows(self, path: Path | str) -> list[dict[str, Any]]:
        """The rows of a TSV file as plain values, None for missing ones; without pandas.

        Raises:
            CorruptArtefactError: it is not a table of this kind.
        """
        return rows_of(self.read_cells(path))

    def read_cells(self, path: Path | str, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
        """The same by column.

        Raises:
            CorruptArtefactError: it is not a table of this kind.
        """
        where = str(path)
        text = tsv_cells(path, columns, where)
        check_names(self, list(text), where, columns)
        cells = {name: from_text(column, name, self.column(name, where), where) for name, column in text.items()}
        check_cells(self, cells, where)
        return cells

    def write(self, path: Path | str, frame: pd.DataFrame) -> None:
        """Write a table all or nothing, with its columns in their present order; `read` returns it.

        Raises:
            CorruptArtefactError: it is not a table of this kind; nothing was written.
        """
        from medssl.artefacts import frames

        frames.write(self, path, frame)

    def write_rows(self, path: Path | str, rows: Iterable[dict[str, Any]]) -> None:
        """Write rows of plain values as a TSV file, with the columns and order of the schema; without pandas.

        Raises:
            CorruptArtefactError: it is not a table of this kind; nothing was written.
        """
        ordered = sorted(rows, key=lambda row: [row[name] for name in self.sorted_by])
        columns = [c for c in self.columns if not c.optional or any(c.name in row for row in ordered)]
        cells = {c.name: [row.get(c.name) if c.optional else row[c.name] for row in ordered] for c in columns}
        self.write_cells(path, cells)

    def write_cells(self, path: Path | str, cells: dict[str, list[Any]]) -> None:
        """The same by column, in the present order of rows.

        Raises:
            CorruptArtefactError: it is not a table of this kind; nothing was written.
        """
        where = str(path)
        check_names(self, list(cells), where)
        check_cells(self, cells, where)
        coded = [to_text(values, self.column(name, where)) for name, values in cells.items()]
        text_table.write_rows(path, list(cells), zip(*coded, strict=True))

    def check(self, frame: pd.DataFrame, where: Path | str = "") -> None:
        """Refuse a frame that is not a table of this kind. `where`: its file.

        Raises:
            CorruptArtefactError: which column, what was found, what was expected, what to do.
        """
        from medssl.artefacts import frames

        frames.check(self, frame, str(where) or self.file)

    def empty(self) -> pd.DataFrame:
        """The table without rows: all columns with their types."""
        from medssl.artefacts import frames

        return frames.empty(self)

    def column(self, name: str, where: str = "") -> Column | None:
        """The column of this name, or of its family; None for an additional one.

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


def rows_of(cells: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The rows of a table given by column."""
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
