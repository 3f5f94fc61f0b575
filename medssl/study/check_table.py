"""Whether the rows of a label table match files of their source and agree with each other."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medssl.core.errors import StudyError, did_you_mean
from medssl.core.file_names import folder_labels, path_names, short_names, tidy_id
from medssl.core.label_table import (
    EVENT,
    IDENTITY_COLUMNS,
    NO_VALUE,
    LabelRow,
    LabelTable,
    contradictions,
    group_problems,
    shared_masks,
)
from medssl.core.partition import PARTS
from medssl.study.source_files import GRID, NPZ, OTHER, PICTURE, SourceFiles

MINTED = re.compile(r"[psvi]-[0-9a-f]{12}")
"""An id of `series.tsv` or `images.parquet`, which file names cannot show."""
MOST_SAID = 5
"""How many rows with one mistake are named."""


@dataclass(frozen=True)
class Table:
    """A label table and the files of its source."""

    path: Path
    rows: LabelTable
    files: SourceFiles

    @property
    def is_by_name(self) -> bool:
        """Whether file names show every possible id; those of DICOM do not, because patients and series are in headers."""
        return self.files.all_are(PICTURE, GRID, NPZ)

    @property
    def header(self) -> list[str]:
        """The columns beside the id that have values."""
        return sorted({name for row in self.rows for name in row} - {"file"})

    @property
    def masks(self) -> dict[str, str]:
        """The mask of each file for which the table names one."""
        return {row["file"]: row["mask"] for row in self.rows if "mask" in row}

    @cached_property
    def items(self) -> list[str]:
        """The files that can have a label by their names; images of an NPZ have no names."""
        return [*self.files.named(PICTURE), *(self.files.scans(self.masks) if GRID in self.files.kinds else [])]

    @cached_property
    def subjects(self) -> dict[str, list[str]]:
        """The files of each patient whom a file name or the table itself names.

        Raises:
            StudyError: `subject_pattern` does not fit a name.
        """
        said = {row["file"]: row["subject"] for row in self.rows if "subject" in row}
        named = self.files.subjects_by_name(file for file in self.items if file not in said)
        found: dict[str, list[str]] = defaultdict(list)
        for file in self.items:
            subject = said.get(file) or named.get(file)
            if subject:
                found[subject].append(file)
        return dict(found)

    def is_by_short_name(self, row: LabelRow) -> bool:
        """Whether the id of a row is a file name without its folder or suffix."""
        return tidy_id(row["file"]) not in self._certain and row["file"] not in self.subjects

    @cached_property
    def _certain(self) -> dict[str, list[str]]:
        return _by_name(self.items, path_names)

    @cached_property
    def _short(self) -> dict[str, list[str]]:
        return _by_name(self.items, short_names)

    @staticmethod
    def is_minted(row: LabelRow) -> bool:
        """Whether the id of a row is one that medssl made."""
        return MINTED.fullmatch(row["file"]) is not None

    def find(self, row: LabelRow) -> list[str]:
        """The files of a row, as stage ingest finds them: by path, folder, patient or file name."""
        name = tidy_id(row["file"])
        return self._certain.get(name) or self.subjects.get(row["file"]) or self._short.get(name, [])

    @cached_property
    def with_class(self) -> set[str]:
        """The files that have a label in a row, and those in class folders."""
        labelled = {file for row in self.rows if "label" in row for file in self.find(row)}
        return labelled | set(folder_labels(self.files.named(PICTURE, OTHER)))


def table_problems(table: Table, groups: Sequence[str]) -> Iterator[str]:
    """Problems of a label table."""
    for group in groups:
        if group not in table.header:
            yield f"{table.path}: there is no column {group!r} for `groups`.{did_you_mean(group, table.header)}"
        else:
            yield from (f"{table.path}: {text}" for text in group_problems(table.rows, [group]))
    said = set()
    for first, second in contradictions(table.rows):
        said.add((first.number, second.number))
        yield _contradiction(table, first, second, first["file"])
    for first, second in shared_masks(table.rows):
        mask = f"name the mask {first['mask']!r} for two images"
        yield f"{table.path}: rows {first.number} and {second.number} {mask}. A mask is of one image: correct one of them"
    yield from _no_values(table, groups)
    yield from _unknown_parts(table)
    if table.is_by_name:
        try:
            yield from _unknown_ids(table)
            yield from (text for pair, text in _contradictions_by_file(table, groups) if pair not in said)
            yield from _unread_columns(table)
        except StudyError:
            return  # of `subject_pattern`, which is checked by itself


def table_notes(table: Table) -> Iterator[str]:
    """Notes: unread columns, ignored blanks, and rows, images and patients that are left out or in two parts."""
    has = set(table.header) & set(IDENTITY_COLUMNS)
    read = {PICTURE: {"split", "subject"}, GRID: {"subject", "mask"}, OTHER: {"subject"}}
    unread = sorted(has - {name for kind, names in read.items() if kind in table.files.kinds for name in names})
    if unread:
        columns = f"columns {' and '.join(unread)} are" if len(unread) > 1 else f"column {unread[0]} is"
        yield (
            f"{table.path}: the {columns} not read here: split is read of pictures alone, subject of all but NPZ, mask of "
            f"{GRID}. Parts may be named in prepare.split.file"
        )
    if rows := table.rows.trimmed:
        yield f"{table.path}: {len(rows)} labels have blanks around them (the first in row {rows[0]}), which do not count"
    yield from _torn_patients(table)
    with contextlib.suppress(StudyError):  # of `subject_pattern`, which is checked by itself
        yield from _counted(table)


def _counted(table: Table) -> Iterator[str]:
    """Rows without a file and images without a row, with the first of each."""
    known: list[LabelRow] = []
    strangers: list[LabelRow] = []
    for row in table.rows:
        has_file = not table.is_by_name or table.is_minted(row) or table.find(row)
        (known if has_file else strangers).append(row)
    if strangers:
        first = f"(row {strangers[0].number}: {strangers[0]['file']!r})"
        yield f"{table.path}: {len(strangers)} of {len(table.rows)} rows are for no file of the source {first}"
    alone = [row for row in known if "subject" not in row] if "subject" in table.header else []
    if alone:
        those = f"{len(alone)} of {len(table.rows)} rows have no subject (the first is row {alone[0].number})"
        yield f"{table.path}: {those}; each of their images counts as a patient of its own, unless its name says whose it is"
    if table.is_by_name and "label" in table.header and not any(map(table.is_minted, known)):
        rest = sorted(set(table.items) - table.with_class)
        if rest:
            yield f"{table.path}: {len(rest)} of {len(table.items)} images have no label in it, such as {rest[0]!r}"


def _unknown_ids(table: Table) -> Iterator[str]:
    """A table of which no row matches a file, or a row that matches several files."""
    known = [row for row in table.rows if table.is_minted(row) or table.find(row)]
    if not known:
        example = min(table.items, default=None)
        files = "an NPZ names no images" if example is None else f"a file of the source is {example!r}"
        first = f"the first id is {table.rows[0]['file']!r} and " if table.rows else ""
        yield (
            f"{table.path}: none of its {len(table.rows)} rows is for a file of this source: {first}{files}. An id is a path "
            "relative to the source, a file name, a folder, a patient, or an id of series.tsv or images.parquet"
        )
    for row in known:
        found = table.find(row)
        if len(found) > 1 and table.is_by_short_name(row):
            yield (
                f"{table.path}: row {row.number}: {row['file']!r} is the name of {len(found)} files, such as {found[0]!r} and "
                f"{found[1]!r}. Write paths relative to the source"
            )
            return


def _contradictions_by_file(table: Table, groups: Sequence[str]) -> Iterator[tuple[tuple[int, int], str]]:
    """Rows with different ids for one file that disagree; with the numbers of both rows."""
    named_by: dict[str, LabelRow] = {}
    said: set[tuple[int, int]] = set()
    for row in table.rows:
        for file in table.find(row):
            before = named_by.setdefault(file, row)
            pair = (before.number, row.number)
            if pair not in said and any(before.get(name) != row.get(name) for name in ("label", EVENT, *groups)):
                said.add(pair)
                yield pair, _contradiction(table, before, row, file)
            if len(said) >= MOST_SAID:
                return


def _contradiction(table: Table, first: LabelRow, second: LabelRow, what: str) -> str:
    return f"{table.path}: rows {first.number} and {second.number} say different things of {what!r}. Keep one of them"


def _no_values(table: Table, groups: Sequence[str]) -> Iterator[str]:
    """Cells in which a program wrote a word for a missing value: it would become a class, a patient or a group."""
    read = ("file", "label", *IDENTITY_COLUMNS, *groups)
    wrong = [(row.number, name, row[name]) for row in table.rows for name in read if row.get(name, "").lower() in NO_VALUE]
    for number, name, value in wrong[:MOST_SAID]:
        what = f"row {number} has the {'id' if name == 'file' else name} {value!r}, as programs write that there is none"
        yield f"{table.path}: {what}. Leave the cell empty, or write n/a"


def _unknown_parts(table: Table) -> Iterator[str]:
    """Rows of pictures with a part that does not exist."""
    pictures = set(table.files.named(PICTURE)) if "split" in table.header else set()
    wrong = [row for row in table.rows if row.get("split", "test") not in PARTS and pictures & {row["file"], *table.find(row)}]
    for row in wrong[:MOST_SAID]:
        yield (
            f"{table.path}: row {row.number} has the split {row['split']!r}; parts are train, val and test."
            f"{did_you_mean(row['split'], PARTS)}"
        )


def _torn_patients(table: Table) -> Iterator[str]:
    """Patients with pictures in two parts, so that training and test share patients."""
    pictures = set(table.files.named(PICTURE)) if "split" in table.header else set()
    rows: dict[str, dict[str, LabelRow]] = defaultdict(dict)
    for row in table.rows:
        if row["file"] in pictures and "subject" in row and "split" in row:
            rows[row["subject"]].setdefault(row["split"], row)
    torn = {subject: parts for subject, parts in rows.items() if len(parts) > 1}
    if torn:
        subject, (first, second) = min((name, list(parts.values())[:2]) for name, parts in torn.items())
        example = f"{subject!r} is in {first['split']} (row {first.number}) and in {second['split']} (row {second.number})"
        yield f"{table.path}: {len(torn)} of {len(rows)} patients are in two parts, so that scores may be too good: {example}"


def _unread_columns(table: Table) -> Iterator[str]:
    """Rows whose part, patient or mask stage ingest would not find, because it looks for paths."""
    paths, scans = set(table.items), set(table.files.named(GRID))
    images = paths & scans
    texts = []
    for row in table.rows:
        has = [name for name in IDENTITY_COLUMNS if name in row]
        if has and row["file"] not in paths and (found := table.find(row)):
            example = f"Write the path, such as {found[0]!r}"
            texts.append(f"row {row.number}: the id of a row with {' or '.join(has)} is a path, got {row['file']!r}. {example}")
        elif row["file"] in images and row.get("mask", row["file"]) not in scans:
            texts.append(
                f"row {row.number}: the mask {row['mask']!r} is not a {GRID} file of this source. Write its path relative to it"
            )
    yield from (f"{table.path}: {text}" for text in texts[:MOST_SAID])


def _by_name(files: Sequence[str], names: Callable[[str], Iterable[str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for file in files:
        for name in names(file):
            found[name].append(file)
    return dict(found)
