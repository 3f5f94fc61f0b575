"""A table of records as a user wrote it: what is known of a patient, a volume or an image besides its pixels.

It has the ids of a label table, and any other columns. Only the columns that a study asks for are read, and only if they hold
numbers or categories: free text, dates and identifiers can name a person.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from medssl.core.errors import StudyError, did_you_mean
from medssl.core.files import sha256_text
from medssl.core.label_table import EVENT, ID_COLUMNS, IDENTITY_COLUMNS, NO_VALUE, LabelTable, read_label_table

Kind = Literal["number", "category"]
KEPT_BACK = ("label", EVENT, *ID_COLUMNS, *IDENTITY_COLUMNS)
"""Columns of a label table, which are never records."""
IS_NUMBER_FRAC = 0.95
"""A column with at least this share of numbers is one of numbers, so a rest that is none is a mistake."""
_MONTH = (
    r"(?:jan|fe[bv]|f\u00e9v|m[a\u00e4]r|apr|avr|abr|ma[iy]|ju[nil]|juin|juil|aug|ao[u\u00fb]|ago|sep|okt|oct|nov|de[cz]|d\u00e9c|dic|ene)"
    r"[^\W\d]*\.?"
)
DATE = re.compile(
    r"(?:"
    r"(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{4,6})?(?:\.\d*)?"
    r"|(?:18|19|20)\d\d(?:[-/](?:0[1-9]|1[0-2])|([-/.])\d{1,2}\1\d{1,2})"
    r"|\d{1,2}([-/.]) ?\d{1,2}\2 ?(?:\d\d){1,2}"
    rf"|(?:\d{{1,2}}(?:st|nd|rd|th)?[-. /]*)?{_MONTH}[-. /,]+(?:\d{{1,2}}(?:st|nd|rd|th)?[-. /,]+)?(?:18|19|20)\d\d"
    rf"|\d{{1,2}}[-. /]+{_MONTH}[-. /,]+\d\d"
    r")(?:[T ].*)?",
    re.IGNORECASE,
)
"""2026-11-29, 2026/1/5, 2026-11, 20261129, DICOM's 20261129103000, 29.11.2026, 11/29/26, 29-Nov-2026, Nov 29, 2026, with or
without a time."""
NEARLY_NUMBERS = {
    "a decimal comma": re.compile(r"[+-]?\d+(?:,\d+)?"),
    "a unit or a sign": re.compile(r"[<>=~≤≥]?\s*[+-]?\d+(?:[.,]\d+)?\s*(?:[^\W\d_]|[%/°])[^\s\d]{0,9}"),
}
"""62,5 and 71 kg, 063Y, <5 ml: a column of them is not one of levels."""
MOST_NUMERIC_LEVELS = 10
"""Levels that may be written so: 1.5T and 3T are scanners."""
LONGEST_LEVEL = 40
"""Letters of the name of a level; longer cells are sentences."""
MOST_LEVELS, MOST_LEVELS_FRAC = 50, 0.2
"""A category with more levels than both is free text (Du et al., arXiv 2407.07582, have at most 60 levels)."""
FEWEST_FOR_A_SHARE = 10
"""Below this many filled cells, most being different says nothing."""
LONG_NUMBER = 1e5
"""A column of whole numbers from here on, each in few rows, holds record numbers, not measurements."""
LONGEST_FOLDER = 60
"""Letters of the name of a column that can name a folder as it is; file systems refuse very long ones."""
NEARLY_FRAC = 0.05
"""A column that disagrees with the labels in fewer rows nearly repeats them."""
BY_CHANCE = 1e-4
"""An order of labels with a smaller probability is not one of chance."""


@dataclass(frozen=True)
class Problem:
    """Why a column cannot be used: a code, and a sentence without any value of the table."""

    code: str
    text: str


@dataclass(frozen=True)
class RecordColumn:
    """A column that was asked for.

    Args:
        name: of the column.
        kind: `number` or `category`.
        cells: `(id, row number, text)` of each filled cell.
        missing: how many rows have none.
    """

    name: str
    kind: Kind
    cells: tuple[tuple[str, int, str], ...]
    missing: int


def place_of(column: str) -> str:
    """The name of the folder of a column: its own if that can name a folder, else its first letters, others replaced, and a
    digest.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", column)[:LONGEST_FOLDER]
    return column if plain == column else f"{plain}-{sha256_text(column)[:6]}"


def read_records(path: Path | str) -> LabelTable:
    """The rows of a table of records.

    Raises:
        StudyError: it cannot be read as a table with ids.
    """
    return read_label_table(path, what="records")


def column_of(rows: LabelTable, name: str, kind: Kind | None = None) -> RecordColumn | Problem:
    """A column of the table, or why it cannot be used.

    Args:
        rows: of the table.
        name: of the column.
        kind: as the study file says; None: a number if 95 % of the filled cells are, else a category.
    """
    if name in KEPT_BACK:
        return Problem("not_a_record", f"{name!r} belongs to ids, labels and parts, and is not a record. Choose another column")
    if name not in rows.columns:
        others = [other for other in rows.columns if other not in KEPT_BACK]
        return Problem(
            "no_column", f"there is no column {name!r}; the records are {', '.join(others)}.{did_you_mean(name, others)}"
        )
    cells = tuple((row["file"], row.number, row[name]) for row in rows if name in row)
    numbers = [_number(text) for _, _, text in cells]
    share = sum(number is not None for number in numbers) / max(1, len(cells))
    found = RecordColumn(name, kind or ("number" if share >= IS_NUMBER_FRAC else "category"), cells, len(rows) - len(cells))
    problem = _problem(found, numbers, declared=kind is not None)
    return problem or found


def _number(text: str) -> float | None:
    try:
        value = float(text) if "_" not in text else math.nan  # Python alone reads 1_000
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _problem(column: RecordColumn, numbers: Sequence[float | None], *, declared: bool) -> Problem | None:
    """Why a column cannot be used; numbers: of its cells, None where a cell is not a number."""
    name, cells = column.name, column.cells
    if not cells:
        return Problem("no_value", f"every cell of the column {name!r} is empty. Fill it in, or leave it out")
    empty = next((number for _, number, text in cells if text.lower() in NO_VALUE), None)
    if empty is not None:
        why = f"row {empty}: a word in {name!r} is what programs write for a missing value, and would count as a value"
        return Problem("no_value_word", f"{why}. Leave the cell empty, or write n/a")
    levels = Counter(text for _, _, text in cells)
    several = len(cells) >= FEWEST_FOR_A_SHARE
    if len(levels) == 1:
        return Problem("one_value", f"all {len(cells)} filled cells of the column {name!r} are equal. Leave it out")
    if sum(DATE.fullmatch(text) is not None for text in levels) > 0.5 * len(levels):
        return Problem("date", f"the column {name!r} holds dates, which can name a person. Use an age, or a time between two")
    if column.kind == "number":
        wrong = next((number for (_, number, _), value in zip(cells, numbers, strict=True) if value is None), None)
        if wrong is not None:
            kinds = "" if declared else f", or set record_kinds: {{{name}: category}}"
            of = "the column was declared a number" if declared else "95 % or more of the others are"
            return Problem(
                "not_a_number", f"row {wrong}: {name!r} is not a number, and {of}. Correct the cell or empty it{kinds}"
            )
        long = all(value is not None and value == int(value) and abs(value) >= LONG_NUMBER for value in numbers)
        if not declared and several and long and len(levels) > MOST_LEVELS_FRAC * len(cells):
            return Problem(
                "near_unique",
                f"all {len(cells)} cells of the column {name!r} are whole numbers of six digits or more, {len(levels)} of them "
                f"different, as record numbers are. If they are measurements, set record_kinds: {{{name}: number}}",
            )
        return None
    for what, form in () if declared or len(levels) <= MOST_NUMERIC_LEVELS else NEARLY_NUMBERS.items():
        if sum(form.fullmatch(text) is not None for _, _, text in cells) >= IS_NUMBER_FRAC * len(cells):
            return Problem(
                "not_a_number",
                f"the cells of the column {name!r} are numbers with {what}. Write numbers alone, as 62.5, or set record_kinds: "
                f"{{{name}: category}}",
            )
    if any(len(text) > LONGEST_LEVEL for text in levels):
        return Problem(
            "free_text", f"the column {name!r} holds free text (cells of more than {LONGEST_LEVEL} letters). Leave it out"
        )
    if len(levels) > MOST_LEVELS and len(levels) > MOST_LEVELS_FRAC * len(cells):
        return Problem("free_text", f"the column {name!r} has {len(levels)} different texts in {len(cells)} cells. Leave it out")
    if several and len(levels) > 0.5 * len(cells):
        unique = f"{len(levels)} of {len(cells)} cells of the column {name!r} are different"
        return Problem("near_unique", f"{unique}, so it names patients rather than describing them. Leave it out")
    return None


def contradictions_in(column: RecordColumn) -> Iterator[tuple[int, int]]:
    """Row numbers of two rows that say different things of one id."""
    first: dict[str, tuple[int, str]] = {}
    for name, number, text in column.cells:
        before = first.setdefault(name, (number, text))
        if before[1] != text:
            yield before[0], number


def gives_the_label_away(values: Iterable[tuple[str, str]], label_of: Mapping[str, str]) -> bool:
    """Whether a column determines the label: each of its values, of five rows or more on average, has one label; or its numbers
    have the order of the labels, so that a threshold separates classes, or a number follows from the other.

    Args:
        values: `(id, value)` of each filled cell.
        label_of: the label of each id that has one.
    """
    both = [(text, label_of[name]) for name, text in values if name in label_of]
    if len({label for _, label in both}) < 2:
        return False
    return (_exceptions(both) == 0 and (_repeats(both) or _beyond_chance(both))) or _in_order(both)


def rows_against_the_label(values: Iterable[tuple[str, str]], label_of: Mapping[str, str]) -> tuple[int, int] | None:
    """A column that nearly determines the label, as one with a wrong cell does: how many rows disagree, and of how many.

    They are 5 % at most, and a fifth at most of the rows that disagree if nothing is known.
    """
    both = [(text, label_of[name]) for name, text in values if name in label_of]
    disagree, unknown = _exceptions(both), _exceptions([("", label) for _, label in both])
    near = 0 < disagree <= NEARLY_FRAC * len(both) and 5 * disagree <= unknown
    return (disagree, len(both)) if near and _repeats(both) else None


def _repeats(both: Sequence[tuple[str, str]]) -> bool:
    """Whether a value has five rows or more on average."""
    return 5 * len({text for text, _ in both}) <= len(both)


def _beyond_chance(both: Sequence[tuple[str, str]]) -> bool:
    """Whether so few orders of the labels give each value one label that this is not chance; an upper bound of their number."""
    labels = Counter(label for _, label in both)
    log_orders = math.lgamma(len(both) + 1) - sum(math.lgamma(count + 1) for count in labels.values())
    return len({text for text, _ in both}) * math.log(len(labels)) - log_orders < math.log(BY_CHANCE)


def _exceptions(both: Sequence[tuple[str, str]]) -> int:
    """The rows without the most frequent label of their value."""
    most: dict[str, int] = {}
    for (text, _), count in Counter(both).items():
        most[text] = max(most.get(text, 0), count)
    return len(both) - sum(most.values())


def _in_order(both: Sequence[tuple[str, str]]) -> bool:
    """Whether sorting the numbers of a column sorts the labels beside them, by class or as numbers, which is not by chance."""
    found = [(number, label) for text, label in both if (number := _number(text)) is not None]
    if len(found) < len(both) or len(set(found)) > len({number for number, _ in found}):
        return False
    labels = [label for _, label in sorted(found)]
    counts = Counter(labels)
    log_orders = math.lgamma(len(labels) + 1) - sum(math.lgamma(count + 1) for count in counts.values())
    runs = 1 + sum(before != after for before, after in pairwise(labels))
    if runs == len(counts) and math.lgamma(len(counts) + 1) - log_orders < math.log(BY_CHANCE):
        return True
    numbers = [_number(label) for label in labels]
    known = [number for number in numbers if number is not None]
    monotone = known in (sorted(known), sorted(known, reverse=True))
    return len(known) == len(labels) and monotone and math.log(2) - log_orders < math.log(BY_CHANCE)


def require(rows: LabelTable, name: str, kind: Kind | None) -> RecordColumn:
    """The column of a table, without contradictions.

    Raises:
        StudyError: it cannot be used.
    """
    found = column_of(rows, name, kind)
    if isinstance(found, Problem):
        raise StudyError(f"records: {found.text} ({found.code}).")
    for first, second in contradictions_in(found):
        raise StudyError(f"records: rows {first} and {second} say different things of one id in {name!r}. Keep one of them.")
    return found
