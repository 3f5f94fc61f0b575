"""A user's own split: a tab separated table of id and part."""

from __future__ import annotations

import csv
from pathlib import Path

from medssl.core.errors import StudyError, did_you_mean
from medssl.core.partition import PARTS


def read_split_file(path: Path | str) -> dict[str, str]:
    """The part of each id. Lines that begin with # are left out.

    Raises:
        StudyError: another header, an id without a part or with two, a part that does not exist; with the row.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise StudyError(
            f"split file: {path} does not exist. Correct prepare.split.file; it is relative to where snakemake runs."
        ) from None
    except UnicodeDecodeError:
        raise StudyError("split file: it is not text in UTF-8. Save it as TSV.") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    rows = list(csv.reader((line for _, line in numbered), delimiter="\t"))
    if not rows or len(rows[0]) != 2 or rows[0][1] != "split":
        raise StudyError(
            f"split file: it must be tab separated with the header `id<tab>split`, got {rows[0] if rows else 'an empty file'}."
        )
    found: dict[str, str] = {}
    for (number, _), row in zip(numbered[1:], rows[1:], strict=True):
        if len(row) != 2 or row[1] not in PARTS:
            part = row[1] if len(row) == 2 else "no part"
            raise StudyError(f"split file: row {number} has {part!r}; parts are train, val and test.{did_you_mean(part, PARTS)}")
        if row[0] in found:
            raise StudyError(f"split file: {row[0]!r} stands twice, again in row {number}. Keep one row for each id.")
        found[row[0]] = row[1]
    return found
