"""A table of labels as a user wrote it: tab or comma separated, with a row per image, volume or patient."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from medssl.core.errors import StudyError
from medssl.core.files import canonical_json

ID_COLUMNS = ("file", "id")
IDENTITY_COLUMNS = ("split", "subject", "mask")
"""Columns that give the patient and the part of an image. Ingest and prepare read these; only fine-tuning reads the others."""
MISSING = ("", "n/a")
NO_VALUE = ("nan", "na", "#n/a", "<na>", "null", "nat")
"""Words that programs write for a missing value, in small letters."""
EVENT = "event"
"""The column that says whether the event of a time happened (1) or the case was lost from view before it (0)."""
FOLDERS = "folders"
"""Used instead of a path: the folder of an image is its class."""
MANY = "|"
"""Separates the classes of a case that has several."""
_LINE_END = re.compile(r"\r\n|\n|\r")
NOT_GROUPS = ("file", "label", "split", "subject", "mask")
MAX_GROUPS = 20


def is_label_table(path: Path | str) -> bool:
    """Whether labels are a table rather than a folder of masks."""
    return Path(path).suffix.lower() in (".csv", ".tsv", ".txt")


class LabelRow(dict[str, str]):
    """A row of a label table by column; the id is under `file`."""

    number: int
    """Its row in the table; the header is row 1."""


class LabelTable(list[LabelRow]):
    """The rows of a label table that have an id."""

    columns: list[str]
    """The columns of the header, empty or not."""
    trimmed: list[int]
    """Numbers of the rows whose label had surrounding blanks, which are ignored."""


def read_label_table(path: Path | str, *, what: str = "labels") -> LabelTable:
    """The rows of a label table, or of another with ids, which `what` names; empty cells and `n/a` are left out.

    Raises:
        StudyError: it has no id column, a repeated column or one in capitals, a row that is too long, or is not text. File names
            may be bytes that are not UTF-8.
    """
    columns = "`label`" if what == "labels" else "others"
    text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        raise StudyError(f"{what}: the table is not text in UTF-8. Save it as CSV or TSV.")
    lines = _LINE_END.split(text)
    if not text.strip():
        raise StudyError(f"{what}: the table is empty. It needs a header line with `id` (or `file`) and {columns}.")
    mark = "\t" if "\t" in lines[0] else ","
    header = [name.strip() for name in next(csv.reader(lines[:1], delimiter=mark))]
    for name in sorted({name for name in header if name and header.count(name) > 1}):
        raise StudyError(
            f"{what}: the table has the column {name!r} {header.count(name)} times. Keep one of them, or rename the others."
        )
    _require_small_letters(header, what)
    wanted = next((name for name in ID_COLUMNS if name in header), None)
    if wanted is None and len(header) == 1 and ";" in header[0]:
        raise StudyError(f"{what}: the table is separated by semicolons. Save it with commas or tabs between its columns.")
    if wanted is None:
        raise StudyError(
            f"{what}: the table has the columns {header}; it needs `id` (or `file`, a path relative to the source) and {columns}."
        )
    found = LabelTable()
    found.columns, found.trimmed = [name for name in header if name], []
    reader = csv.DictReader(lines, delimiter=mark)
    for cells in reader:
        if any(cell.strip() for cell in cells.get(None) or ()):
            raise StudyError(
                f"{what}: row {reader.line_num} of the table has more cells than the header has columns, {len(header)} "
                "(the header is row 1). Put a cell that holds the separator in quotes."
            )
        clean = {str(name).strip(): cell.strip() for name, cell in cells.items() if name and isinstance(cell, str)}
        filled = {name: cell for name, cell in clean.items() if cell not in MISSING}
        if wanted in filled:
            row = LabelRow(file=filled.pop(wanted))
            row |= filled
            row.number = reader.line_num
            _check_text(row, what)
            found.append(row)
            if any(str(name).strip() == "label" and str(cell) != str(cell).strip() for name, cell in cells.items()):
                found.trimmed.append(row.number)
    return found


def _require_small_letters(header: Sequence[str], what: str) -> None:
    """Refuse a column that would be read if its name were in lower case.

    Raises:
        StudyError: there is one.
    """
    has_id = any(name in header for name in ID_COLUMNS)
    read = {"label", *IDENTITY_COLUMNS, *(() if has_id else ID_COLUMNS)}
    wrong = [name for name in header if name not in read and name.lower() in read - set(header)]
    if wrong:
        change = " and ".join(f"{name!r} to {name.lower()!r}" for name in wrong)
        raise StudyError(f"{what}: the names of columns are in small letters. Rename {change} in the table.")


def _check_text(row: LabelRow, what: str) -> None:
    """Require text in classes and groups, which are written into results. Names of files and people may be any bytes.

    Raises:
        StudyError: they are not text.
    """
    for name, value in row.items():
        if name not in ("file", "mask", "subject") and not f"{name}{value}".isascii():
            try:
                f"{name}{value}".encode()
            except UnicodeEncodeError:
                raise StudyError(
                    f"{what}: row {row.number} of the table is not text in UTF-8 (the header is row 1). Save the table as UTF-8."
                ) from None


def identities(path: str | None) -> str:
    """The part of a label table that early stages depend on, as text; empty if the table only describes what images show."""
    if not path or not is_label_table(path) or not Path(path).is_file():
        return ""
    rows = [[row["file"], *(row.get(name, "") for name in IDENTITY_COLUMNS)] for row in read_label_table(path)]
    early = sorted(row for row in rows if any(row[1:]))
    return canonical_json(early) if early else ""


def classes_of(labels: Iterable[str]) -> set[str]:
    """Distinct class names: `a|b` counts for a and for b, `|` for none."""
    return {name.strip() for label in labels for name in label.split(MANY)} - {""}


def group_problems(rows: Sequence[LabelRow], groups: Sequence[str]) -> Iterator[str]:
    """Why columns cannot define subgroups: a sentence for each that cannot."""
    for name in groups:
        values = {row[name] for row in rows if name in row}
        if name in NOT_GROUPS or not 1 <= len(values) <= MAX_GROUPS:
            yield (
                f"groups: the column {name!r} of the label table holds {len(values)} different values; subgroups are made of a "
                f"column (not {', '.join(NOT_GROUPS)}) with 1 to {MAX_GROUPS}."
            )


def shared_masks(rows: Sequence[LabelRow]) -> Iterator[tuple[LabelRow, LabelRow]]:
    """Pairs of rows that assign one mask to two images."""
    first: dict[str, LabelRow] = {}
    for row in rows:
        if "mask" in row:
            before = first.setdefault(row["mask"], row)
            if before["file"] != row["file"]:
                yield before, row


def contradictions(rows: Sequence[LabelRow]) -> Iterator[tuple[LabelRow, LabelRow]]:
    """Pairs of rows that give one id different values in a column."""
    first: dict[tuple[str, str], LabelRow] = {}
    for row in rows:
        for name, value in row.items():
            before = first.setdefault((row["file"], name), row)
            if before[name] != value:
                yield before, row
                break
