"""Which series an unreadable file may have belonged to: an image lost at the end of a series leaves no gap.

A damaged file that still names a series of the source belongs to that one. Any other may belong to any series of its folder with
similar file names, as its identifier may be damaged too, unless the numbers in the names place it elsewhere. If the names of a
series follow no order (identifiers, hashes), nothing rules it out.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from functools import cached_property
from itertools import pairwise
from typing import Any

from medssl.ingest.dicom.header import Header
from medssl.ingest.dicom.slices import slices_of_file
from medssl.ingest.refusal import Refusal
from medssl.ingest.unread_beside import whole_name

Row = dict[str, Any]

DAMAGE = frozenset(
    [
        "truncated",
        "corrupt",
        "pixel_length",
        "nested",
        "bomb",
        "too_large",
        "timeout",
        "crashed",
        "missing_tag",
        "empty",
        "changed",
        "unreadable",
        "unsupported_syntax",
    ]
)
"""Codes that leave open what the file was."""
NAMED_ALIKE = frozenset(["not_an_image", "archive", "link", "special_file"])
"""Codes of files that are not DICOM and count as a lost image only if they are named like the files of a series."""
OF_ONE_SERIES = DAMAGE | {"unsupported_object", "unsupported_modality", "unsupported_frames"}
"""Codes of files that remove an image from the series that they state."""
IN_ORDER = 0.8
"""Share of the steps between the numbers of a series that must be equal for the numbers to locate a file."""
FEWEST = 3
"""The number of files that shows how a series is named."""
_DIGITS = re.compile(r"(\d+)")


def series_in_doubt(rows: list[Row]) -> tuple[dict[str, list[Row]], set[str]]:
    """(groups that may have lost an image → the files it may be in, groups beside a damaged file that have lost none).

    `rows` of the inventory have `name`, `code`, `format`, `series`, `group` and `role`.
    """
    images = [row for row in rows if row["format"] == "dicom" and row["role"] == "image"]
    groups = {row["series"]: row["group"] for row in images if row["series"]}
    doubtful: dict[str, list[Row]] = defaultdict(list)
    beside: set[str] = set()
    folders: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in images:
        folders[row["name"].rpartition("/")[0]][row["group"]].append(row)
    suffixes: dict[str, set[str]] = defaultdict(set)
    for row in images:
        suffixes[row["group"]].add(_suffix(row["name"]))
    named: dict[tuple[str, str], _Named] = {}
    names = {row["name"] for row in rows if not row["code"]}

    def may_have_held(row: Row, *, dicom: bool, matrix: object = None) -> None:
        folder, _, file = row["name"].rpartition("/")
        whole = whole_name(file)
        alone = folder not in folders
        place = folder.rpartition("/")[0] if alone else folder
        if (alone or whole != file) and f"{place}/{whole}".removeprefix("/") in names:
            return  # the image is present: unpacked, or transferred completely
        folder, file = place, whole
        for group, others in folders.get(folder, {}).items():
            key = folder, group
            if key not in named:
                named[key] = _Named([other["name"].rpartition("/")[2] for other in others])
            if matrix is not None and (group == row["group"] or _matrix(others[0]) != matrix):
                continue
            if alone and not named[key].knows(file):
                continue
            if named[key].may_have_held(file, dicom=dicom):
                doubtful[group].append(row)
            elif dicom and _suffix(file) in named[key].suffixes:
                beside.add(group)

    for row in rows:
        if row["format"] == "dicom" and row["role"] == "mask" and row["series"] in groups:
            doubtful[groups[row["series"]]].append(row)  # a label object has its own series (PS3.3 C.8.20.1, C.8.8.1)
        if row["format"] or row["code"] not in OF_ONE_SERIES | NAMED_ALIKE:
            continue
        if row["series"] in groups:
            doubtful[groups[row["series"]]].append(row)
        elif row["code"] in DAMAGE | NAMED_ALIKE:  # others are sound and have their own series
            may_have_held(row, dicom=row["code"] in DAMAGE)
            if row["name"].endswith("/") or (row["code"] in DAMAGE and row["name"].rpartition("/")[0] not in folders):
                for group in _spread_beside(row["name"].rpartition("/")[0], folders):
                    if row["name"].endswith("/") or _suffix(row["name"]) in suffixes[group]:
                        doubtful[group].append(row)
    for row in _alone_and_unusable(images):
        may_have_held(row, dicom=True, matrix=_matrix(row))
    return dict(doubtful), beside - doubtful.keys()


def kinds_in_words(files: list[Row]) -> str:
    """How many files cast doubt on a series, and their kinds: `3 files (2 truncated, 1 empty)`; no names."""
    kinds = Counter(_kind(row) for row in {row["name"]: row for row in files}.values())
    many = sum(kinds.values())
    counted = [kind if count == many else f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda e: (-e[1], e[0]))]
    return f"{many} file{'s' * (many > 1)} ({', '.join(counted)})"


def _kind(row: Row) -> str:
    if row["role"] == "mask":
        return "a label object under the identifier of the series"
    return str(row["code"]) or "an image that may have a damaged identifier"


def _alone_and_unusable(images: list[Row]) -> list[Row]:
    """Images of a series of one or two that cannot be a slice, or whose identifier is invalid and may be damaged."""
    counts = Counter(row["group"] for row in images)
    found = []
    for row in images:
        if counts[row["group"]] < FEWEST:
            header = Header.from_json(json.loads(row["header"]))
            try:
                _ = slices_of_file(0, header) if header.role == "image" else []
            except Refusal:
                found.append(row)
                continue
            if header.role == "image" and not header.sound_id:
                found.append(row)
    return found


def _matrix(row: Row) -> object:
    layout = json.loads(row["header"])["layout"]
    return layout["rows"], layout["columns"]


def _spread_beside(folder: str, folders: dict[str, dict[str, list[Row]]]) -> set[str]:
    """Series in several folders, one of them beside or around a folder that could not be listed."""
    around = folder.rpartition("/")[0]
    places: dict[str, set[str]] = defaultdict(set)
    for name, groups in folders.items():
        for group in groups:
            places[group].add(name)
    in_doubt = {group for group, names in places.items() if any(n == around or n.rpartition("/")[0] == around for n in names)}
    return {group for group in in_doubt if len(places[group]) > 1}


class _Named:
    """The naming pattern of a series' files in a folder."""

    def __init__(self, files: list[str]) -> None:
        self._files = [_parts(file) for file in files]
        self._lengths = {len(file) for file in files}
        self.suffixes = {_suffix(file) for file in files}

    def may_have_held(self, file: str, *, dicom: bool) -> bool:
        """Whether a file of this name may have been one of them; `dicom`: its kind can be a damaged DICOM file."""
        if not file:
            return True
        words, numbers = _parts(file)
        alike = [own for texts, own in self._files if texts == words]
        if not alike:
            no_pattern = self._commonest < 0.5 or len(self._files) < FEWEST
            return no_pattern and _suffix(file) in self.suffixes and (dicom or len(file) in self._lengths)
        if len(alike) < FEWEST or not numbers:
            return True
        runs = [sorted(set(run)) for run in zip(*alike, strict=True)]
        if any(len(run) == 1 and number != run[0] for run, number in zip(runs, numbers, strict=True)):
            return False
        varying = [(run, number) for run, number in zip(runs, numbers, strict=True) if len(run) > 1]
        return len(varying) != 1 or _stood_among(*varying[0])

    def knows(self, file: str) -> bool:
        """Whether one of them has the words of this name."""
        return bool(file) and any(texts == _parts(file)[0] for texts, _ in self._files)

    @cached_property
    def _commonest(self) -> float:
        return Counter(words for words, _ in self._files).most_common(1)[0][1] / len(self._files)


def _stood_among(numbers: list[int], number: int) -> bool:
    """Whether a number lies among others or follows them, as far as they are in order."""
    steps = Counter(b - a for a, b in pairwise(numbers))
    step, count = steps.most_common(1)[0]
    if count < IN_ORDER * (len(numbers) - 1):
        return True
    return numbers[0] - step <= number <= numbers[-1] + step


def _parts(file: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The words of a file's name and the numbers between them: `IM_0012.dcm` is (`im_`, `.dcm`), (12,)."""
    found = _DIGITS.split(file.lower())
    return tuple(found[::2]), tuple(int(number[:18]) for number in found[1::2])


def _suffix(file: str) -> str:
    """The suffix of a name; one that is a number, or long, counts as part of the name."""
    suffix = file.rpartition(".")[2].lower() if "." in file else ""
    return "" if suffix.isdigit() or len(suffix) > 4 else suffix
