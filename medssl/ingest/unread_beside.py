"""Files beside a DICOM series that were not read and may hold images of it: an end slice among them leaves no gap.

Unfinished transfers have a temporary name until they end, archives are never opened and links never followed. If the name shows
which slice it would be, the series is in doubt (`dicom/damaged_neighbours.py`); otherwise the volume gets a warning.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

Row = dict[str, Any]

_MARKS = r"part|partial|filepart|crdownload|download|opdownload|incomplete|unfinished|tmp|temp|aria2|!ut|!qb"
_UNFINISHED = (
    re.compile(r"[.~]syncthing[.~](?P<whole>.+?)(?:\.tmp)?"),
    re.compile(rf"(?P<whole>.+?)(?:\.[0-9a-zA-Z]{{6,8}})?\.(?:{_MARKS})", re.IGNORECASE),
    re.compile(r"(?P<whole>.+)~"),
    re.compile(r"[.~](?P<whole>[^._~].*\d.*)\.[0-9A-Za-z]{3,8}"),
)
"""Names of unfinished transfers: browsers, rclone and copy programs, editors, rsync (`.0015.dcm.aB3xYz`), Syncthing."""
_PACKED = re.compile(r"(?P<whole>.+\..+|.*\d)\.(?:gz|bz2|xz|zst|z|lz4|zip|7z)", re.IGNORECASE)


def whole_name(file: str) -> str:
    """The name that a file has once its transfer has ended and it is unpacked; unchanged for other files.

    >>> [whole_name(name) for name in ("0015.dcm.part", ".0015.dcm.aB3xYz", "0015.dcm.gz", "0015.dcm", "._0015.dcm")]
    ['0015.dcm', '0015.dcm', '0015.dcm', '0015.dcm', '._0015.dcm']
    """
    for pattern in (*_UNFINISHED, _PACKED):
        if found := pattern.fullmatch(file):
            return found["whole"]
    return file


def is_unfinished(file: str) -> bool:
    """Whether a name is that of an unfinished transfer.

    >>> is_unfinished("0015.dcm.part"), is_unfinished("0015.dcm.gz"), is_unfinished("0015.dcm")
    (True, False, False)
    """
    return any(pattern.fullmatch(file) for pattern in _UNFINISHED)


def mark_unread(rows: list[Row]) -> None:
    """Fill in `unread` of every row of the inventory: whether its DICOM series lies in a folder with such files."""
    groups = {group for found in _series_beside(rows).values() for group in found}
    for row in rows:
        row["unread"] = row["format"] == "dicom" and row["group"] in groups


def remark_on_unread(rows: list[Row]) -> list[str]:
    """A sentence on the series in whose folders such files lie, or none."""
    beside = _series_beside(rows)
    if not beside:
        return []
    counts: dict[str, int] = defaultdict(int)
    for number, row in enumerate(rows):
        if number in beside:
            counts[_kind(row)] += 1
    found = [_counted(counts[kind], *_WORDS[kind]) for kind in _WORDS if counts[kind]]
    series = len({group for groups in beside.values() for group in groups})
    where = "1 series lies in a folder" if series == 1 else f"{series} series lie in folders"
    holds = "that holds" if series == 1 else "that hold"
    return [
        f"{where} {holds} {_listed(found)}. These were not read, and a slice at an end of a series may be among them, which "
        "leaves no gap. Finish the transfer, unpack archives, copy what links lead to, or move away what is none of the series."
    ]


_WORDS = {
    "unfinished": (
        "file that looks like a part of a transfer that did not end",
        "files that look like parts of a transfer that did not end",
    ),
    "archive": ("archive, which is never opened", "archives, which are never opened"),
    "link": ("link, which is never followed", "links, which are never followed"),
    "closed": ("folder that could not be listed", "folders that could not be listed"),
}


def _series_beside(rows: list[Row]) -> dict[int, set[str]]:
    """Unread files, by their number, and the DICOM series in the same folder."""
    folders: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["format"] == "dicom" and row["role"] == "image" and not row["code"]:
            folders[row["name"].rpartition("/")[0]].add(row["group"])
    names = {row["name"] for row in rows if not row["code"]}
    found = {}
    for number, row in enumerate(rows):
        folder, _, file = row["name"].rstrip("/").rpartition("/")
        whole = f"{folder}/{whole_name(file)}".removeprefix("/")
        if folder in folders and _kind(row) and whole not in names:
            found[number] = folders[folder]
    return found


def _kind(row: Row) -> str:
    """The kind of such a file; empty if it is another one, or was read."""
    if not row["code"]:
        return ""
    if row["name"].endswith("/"):
        return "closed"
    if row["code"] in ("archive", "link"):
        return str(row["code"])
    return "unfinished" if is_unfinished(row["name"].rpartition("/")[2]) else ""


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
