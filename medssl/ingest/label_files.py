"""Which image a label is for: ids of a table, names of mask files, series that a DICOM label object refers to."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import TypeVar

from medssl.core.errors import StudyError
from medssl.core.file_names import IMAGE_WORDS, MASK_WORDS, file_words, is_mask, path_names, short_names, tidy_id
from medssl.core.label_table import EVENT, LabelRow, group_problems
from medssl.core.record_table import RecordColumn

Value = TypeVar("Value")
MASK_ENTITY = re.compile(r"(seg|desc|label|space|res|den|atlas)-[A-Za-z0-9]+")


@dataclass(frozen=True)
class LabelTarget:
    """A possible target of a label: a volume (`index` None) or an image of an image set."""

    volume_id: str
    index: int | None
    files: tuple[str, ...]
    """relative names of its files"""
    ids: tuple[str, ...]
    """its own id and those of its series and patient, keyed"""


@dataclass(frozen=True)
class Given:
    """The entries of a table for an item."""

    label: str | None
    groups: dict[str, str]
    event: str | None = None


class Matcher:
    """Finds the items for an id."""

    def __init__(self, items: Sequence[LabelTarget], key_ids: Callable[[str], tuple[str, ...]]) -> None:
        """`key_ids`: the keyed ids for a patient id or a series UID."""
        self._key_ids = key_ids
        self._certain: dict[str, set[int]] = defaultdict(set)
        self._short: dict[str, set[int]] = defaultdict(set)
        for number, item in enumerate(items):
            for name in item.ids:
                self._certain[name].add(number)
            for file in item.files:
                for name in path_names(file):
                    self._certain[name].add(number)
                for name in short_names(file):
                    self._short[name].add(number)

    def find(self, name: str) -> list[int]:
        """Numbers of the items for an id: a path, a folder, a patient, a series, or a bare file name.

        Raises:
            StudyError: a bare name fits several images.
        """
        tidy = tidy_id(name)
        for candidate in (tidy, *self._key_ids(name)):
            if candidate in self._certain:
                return sorted(self._certain[candidate])
        found = self._short.get(tidy, set())
        if len(found) > 1:
            raise StudyError(
                f"an id of the table is the name of {len(found)} images. Write paths relative to the source instead."
            )
        return sorted(found)


def given_by_table(rows: Sequence[LabelRow], matcher: Matcher, groups: Sequence[str]) -> tuple[dict[int, Given], int]:
    """The entries of a table, by item number, and how many of its rows match no item.

    Args:
        rows: of the table, see `read_label_table`.
        matcher: of the items.
        groups: columns whose values define subgroups.

    Raises:
        StudyError: no row matches an image, two rows contradict each other, or a column cannot define subgroups.
    """
    for problem in group_problems(rows, groups):
        raise StudyError(problem)
    entries = (
        (row["file"], row.number, Given(row.get("label"), {name: row[name] for name in groups if name in row}, row.get(EVENT)))
        for row in rows
    )
    advice = "Keep one row for each, and join several classes by `|`"
    return _by_item(entries, matcher, f"labels: none of the {len(rows)} rows of the table", "labels", "", advice)


def records_by_table(column: RecordColumn, matcher: Matcher) -> tuple[dict[int, str], int]:
    """The cells of a column of records, by item number, and how many of them match no item.

    Raises:
        StudyError: no cell matches an image, or two contradict each other.
    """
    nothing = f"records: none of the {len(column.cells)} cells of {column.name!r}"
    return _by_item(column.cells, matcher, nothing, "records", f" in {column.name!r}", "Keep one row for each")


def _by_item(
    entries: Iterable[tuple[str, int, Value]], matcher: Matcher, nothing: str, what: str, where: str, advice: str
) -> tuple[dict[int, Value], int]:
    """The value of each item, and how many entries match none. `entries`: id, row number, value; the rest: words of the errors.

    Raises:
        StudyError: no entry matches an item, or two contradict each other.
    """
    found: dict[int, Value] = {}
    row_of: dict[int, int] = {}
    strangers = 0
    for name, row, value in entries:
        numbers = matcher.find(name)
        strangers += not numbers
        for number in numbers:
            before = row_of.setdefault(number, row)
            if found.setdefault(number, value) != value:
                raise StudyError(
                    f"{what}: rows {before} and {row} of the table say different things of one image{where} (the header is row "
                    f"1). {advice}."
                )
    if not found:
        raise StudyError(
            f"{nothing} is for an image of this source. An id is a path relative to the source, a file name, a folder, a patient "
            "id, a series UID, or an id of series.tsv."
        )
    return found, strangers


def given_by_folders(items: Sequence[LabelTarget]) -> dict[int, Given]:
    """The class of each item by the folder that holds its files."""
    folders = {number: {PurePosixPath(file).parent.name for file in item.files} for number, item in enumerate(items)}
    found = {number: Given(names.pop(), {}) for number, names in folders.items() if len(names) == 1 and "" not in names}
    if not found:
        raise StudyError("labels: folders: no image lies in a folder of its class. Name a table of id and label instead.")
    return found


def meant_by(images: dict[str, tuple[str, ...]], names: Sequence[str], pattern: str | None = None) -> dict[str, list[str]]:
    """The volumes that each mask file may be for: relative name of the label folder → volume ids, none, one or several.

    A mask is for the image with the same name, without the words and BIDS entities that mark a mask. Folders decide only if
    several
    images have one name.

    Args:
        images: volume id → relative names of its files.
        names: of the NIfTI files of the label folder.
        pattern: a glob that selects the masks; else their last word or folder does, else all are.
    """
    if pattern:
        chosen = [name for name in names if fnmatch(name, pattern) or fnmatch(name.split("/")[-1], pattern)]
    else:
        chosen = [name for name in names if is_mask(name)] or list(names)
    by_stem: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for volume_id, files in images.items():
        for file in files:
            for stem in image_stems(file):
                by_stem[stem].append((volume_id, file))
    found: dict[str, list[str]] = {}
    for name in sorted(chosen):
        owners = next((by_stem[stem] for stem in mask_stems(name) if stem in by_stem), [])
        if len({volume_id for volume_id, _ in owners}) > 1:
            most_shared = max(_shared_folders(name, file) for _, file in owners)
            owners = [owner for owner in owners if _shared_folders(name, owner[1]) == most_shared]
        found[name] = sorted({volume_id for volume_id, _ in owners})
    return found


def image_stems(name: str) -> list[str]:
    """The names by which a mask may refer to an image.

    >>> image_stems("imagesTr/case_1_0000.nii.gz"), image_stems("sub-01_T1w.nii.gz")
    (['case_1_0000', 'case_1'], ['sub-01_T1w', 'sub-01'])
    """
    words = file_words(name)
    short = words[:-1] if len(words) > 1 and (words[-1].lower() in IMAGE_WORDS or words[-1] == "0000") else words
    return list(dict.fromkeys(["_".join(words), "_".join(short)]))


def mask_stems(name: str) -> list[str]:
    """The names that the image of a mask may have, the longest first.

    >>> mask_stems("anat/sub-01_T1w_desc-lesion_mask.nii.gz")
    ['sub-01_T1w', 'sub-01']
    """
    words = [word for word in file_words(name) if not MASK_ENTITY.fullmatch(word)]
    while len(words) > 1 and words[-1].lower() in MASK_WORDS:
        words.pop()
    short = words[:-1] if len(words) > 1 and words[-1].lower() in IMAGE_WORDS else words
    return list(dict.fromkeys(["_".join(words), "_".join(short)]))


def _shared_folders(one: str, other: str) -> int:
    return len(set(one.split("/")[:-1]) & set(other.split("/")[:-1]))
