"""A table of labels as a user wrote it: tab or comma separated, with a row per image, volume or patient."""

from __future__ import annotations

import csv
from pathlib import Path

from medssl.core.errors import StudyError
from medssl.core.files import canonical_json

ID_COLUMNS = ("file", "id")
IDENTITY_COLUMNS = ("split", "subject", "mask")
"""What says whose an image is and for what it is kept. Ingest and prepare read these, and only fine-tuning the others."""
MISSING = ("", "n/a")
FOLDERS = "folders"
"""Said instead of a path: the folder of an image is its class."""


def is_label_table(path: Path | str) -> bool:
    """Whether labels are given as a table, and not as a folder of masks."""
    return Path(path).suffix.lower() in (".csv", ".tsv", ".txt")


def read_label_table(path: Path | str) -> list[dict[str, str]]:
    """The rows of a label table; the id stands under `file`, empty cells and `n/a` are left out.

    Raises:
        StudyError: it has no id column, or is not text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise StudyError("labels: the table is not text in UTF-8. Save it as CSV or TSV.") from None
    if not lines:
        raise StudyError("labels: the table is empty. It needs a header line with `id` (or `file`) and `label`.")
    rows = list(csv.DictReader(lines, delimiter="\t" if "\t" in lines[0] else ","))
    header = [name.strip() for name in next(csv.reader(lines[:1], delimiter="\t" if "\t" in lines[0] else ","))]
    wanted = next((name for name in ID_COLUMNS if name in header), None)
    if wanted is None:
        raise StudyError(
            f"labels: the table has the columns {header}; it needs `id` (or `file`, a path relative to the source) and `label`."
        )
    clean = [{str(k).strip(): v.strip() for k, v in row.items() if k and isinstance(v, str)} for row in rows]
    filled = [{k: v for k, v in row.items() if v not in MISSING} for row in clean]
    return [{"file": row[wanted], **{k: v for k, v in row.items() if k != wanted}} for row in filled if wanted in row]


def identities(path: str | None) -> str:
    """The part of a label table that early stages depend on, as text: nothing where it only says what images show."""
    if not path or not is_label_table(path) or not Path(path).is_file():
        return ""
    rows = [[row["file"], *(row.get(name, "") for name in IDENTITY_COLUMNS)] for row in read_label_table(path)]
    early = sorted(row for row in rows if any(row[1:]))
    return canonical_json(early) if early else ""


def contradictions(path: Path | str) -> list[tuple[str, int, int]]:
    """(id, row, row) where two rows of a label table give one id different values in a column; the header is row 1."""
    lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    reader = csv.DictReader(lines, delimiter="\t" if "\t" in lines[0] else ",")
    first: dict[tuple[str, str], tuple[str, int]] = {}
    found: dict[tuple[str, int, int], None] = {}
    for row in reader:
        clean = {str(k).strip(): v.strip() for k, v in row.items() if k and isinstance(v, str)}
        name = next((clean[column] for column in ID_COLUMNS if clean.get(column)), "")
        for column, value in clean.items():
            if name and column not in ID_COLUMNS and value not in MISSING:
                before, number = first.setdefault((name, column), (value, reader.line_num))
                if before != value:
                    found[name, number, reader.line_num] = None
    return list(found)
