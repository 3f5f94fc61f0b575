"""A user's own split: a tab separated table of id and part, and optionally of the order in which patients are labelled."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from medssl.core.errors import StudyError, did_you_mean
from medssl.core.partition import PARTS

HEADERS = (["split"], ["split", "order"])
"""The columns that may follow the column of ids."""


@dataclass(frozen=True)
class SplitFile:
    """The part by id, and the place of the training ids in the order of labelling; empty if the file has no order."""

    parts: dict[str, str]
    order: dict[str, int]


def read_split_file(path: Path | str) -> SplitFile:
    """The part of each id, and the order of the training ids if the table has one. Lines that begin with # are skipped.

    Raises:
        StudyError: another header, an id without a part or with two, an unknown part; a training id without a place in the order,
            two at one place; with the row.
    """
    numbered = _rows(path)
    header = numbered[0][1] if numbered else []
    if header[1:] not in HEADERS:
        raise StudyError(
            "split file: it must be tab separated with the header `id<tab>split`, or `id<tab>split<tab>order`, got "
            f"{header or 'an empty file'}."
        )
    parts: dict[str, str] = {}
    order: dict[str, int] = {}
    at: dict[int, str] = {}
    for number, row in numbered[1:]:
        if len(row) != len(header) or row[1] not in PARTS:
            part = row[1] if len(row) == len(header) else f"{len(row)} of {len(header)} cells"
            raise StudyError(f"split file: row {number} has {part!r}; parts are train, val and test.{did_you_mean(part, PARTS)}")
        if row[0] in parts:
            raise StudyError(f"split file: {row[0]!r} stands twice, again in row {number}. Keep one row for each id.")
        parts[row[0]] = row[1]
        if len(header) == 3 and row[1] == "train":
            order[row[0]] = place = _place(row[2], number)
            if place in at:
                raise StudyError(
                    f"split file: {at[place]!r} and {row[0]!r} (row {number}) are both at place {place} of the order. Give each "
                    "training id a place of its own."
                )
            at[place] = row[0]
    return SplitFile(parts, order)


def _rows(path: Path | str) -> list[tuple[int, list[str]]]:
    """Number and cells of each line that is not a comment, the header first."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise StudyError(
            f"split file: {path} does not exist. Correct prepare.split.file; it is relative to where snakemake runs."
        ) from None
    except UnicodeDecodeError:
        raise StudyError("split file: it is not text in UTF-8. Save it as TSV.") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    cells = csv.reader((line for _, line in numbered), delimiter="\t")
    return [(number, row) for (number, _), row in zip(numbered, cells, strict=True)]


def _place(cell: str, number: int) -> int:
    if not (cell.isascii() and cell.isdecimal()):
        raise StudyError(
            f"split file: row {number} has the order {cell!r}; expected a whole number for every training id. Fill the column, "
            "or leave it out."
        )
    return int(cell)
