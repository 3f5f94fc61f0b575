"""What an image or a frame states besides its place and its values: compared between the slices of one series, and hidden.

Words become keyed hashes, amounts stay numbers. The table in `attributes` defines what a difference means.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from medssl.ingest.dicom.elements import Values, text
from medssl.ingest.dicom.fields import Fields, decimal, finite
from medssl.ingest.dicom.tags import COMPARED_AMOUNTS, COMPARED_WORDS

FRAME_CONTENT = 0x00209111
FRAME_WORDS = {
    "complex component": (0x00189226, 0x00089208),
    "filter": (0x00189325, 0x00181160),
}
FRAME_AMOUNTS = {
    "slice thickness": (0x00289110, 0x00180050),
    "repetition time": (0x00189112, 0x00180080),
    "tube current": (0x00189321, 0x00189330),
    "exposure time": (0x00189321, 0x00189328),
}
"""(functional group, tag in it) of a frame's amounts"""
_DIFFUSION, _DIRECTIONS, _DIRECTION = 0x00189117, 0x00189076, 0x00189089
_USAGE, _USED = 0x00189341, (0x00189337, 0x00189342, 0x00189343, 0x00189344)
_TIME_OF_FRAME, _OFFSET = 0x00209310, 0x0020930D
_INDICES, _POINTER = 0x00209157, 0x00209165
_OF_PLACES = frozenset([0x00200032, 0x00209113, 0x00209057, 0x00201041, 0x0020930C, 0x00209301])
_OF_TIMES = frozenset([0x00209128, 0x00209156, 0x00189074, 0x00189151, 0x0020930D, 0x00209153])
MOST_DIMENSIONS = 6
"""Number of indices by which frames are sorted; further ones are ignored."""

Hide = Callable[[str], str]
Compared = tuple[dict[str, str], dict[str, float]]
"""(words, amounts) by their names; missing ones have no entry."""


def compared_of_file(fields: Fields, hidden: Hide) -> Compared:
    """The attributes at the top level of a file; times in seconds since the midnight before the study, or ms as in the file."""
    words, amounts = {}, {}
    for name, tag in COMPARED_WORDS.items():
        raw = fields.values.get(tag)
        found = _direction(raw, fields.order) if tag == _DIRECTION else _tidy(text(raw))
        if found:
            words[name] = hidden(found)
    for name, tag in COMPARED_AMOUNTS.items():
        number = _number(fields.values.get(tag), fields.order)
        if number is not None:
            amounts[name] = number
    series_s = fields.clock_s("series_time", "series_date")
    if series_s is not None:
        amounts["series time"] = series_s
    return words, amounts


def compared_of_frame(own: Values, shared: Values, pointers: list[int], order: str, hidden: Hide) -> Compared:
    """The same for a frame, from its own functional groups or the shared ones; `pointers` name its dimension indices."""

    def items(group: int) -> list[Values]:
        return next((found for source in (own, shared) if isinstance(found := source.get(group), list) and found), [])

    words, amounts = {}, {}
    for name, (group, tag) in FRAME_WORDS.items():
        words[name] = next((_tidy(text(item.get(tag))) for item in items(group)), "")
    directions = [inner for item in items(_DIFFUSION) for inner in _items(item.get(_DIRECTIONS))]
    words["diffusion direction"] = next((_direction(item.get(_DIRECTION), order) for item in directions), "")
    used = [[item.get(tag) for tag in _USED] for item in items(_USAGE)]
    words["use of contrast agent"] = (
        repr([[v.hex() if isinstance(v, bytes) else "" for v in one] for one in used]) if used else ""
    )
    content = items(FRAME_CONTENT)
    indices = _indices(content[0].get(_INDICES) if content else None, order)
    for n, index in enumerate(indices[:MOST_DIMENSIONS]):
        if n >= len(pointers) or pointers[n] not in _OF_PLACES:
            counted = "time by dimension" if n < len(pointers) and pointers[n] in _OF_TIMES else "dimension"
            words[f"{counted} {n + 1}"] = str(index)
    for name, (group, tag) in FRAME_AMOUNTS.items():
        numbers = [number for item in items(group) if (number := _number(item.get(tag), order)) is not None]
        if numbers:
            amounts[name] = numbers[0]
    for item in items(_TIME_OF_FRAME):
        offset_s = _number(item.get(_OFFSET), order, binary=True)
        if offset_s is not None:
            amounts["reference time"] = 1000 * offset_s
    return {name: hidden(word) for name, word in words.items() if word}, amounts


def dimension_pointers(values: object, order: str) -> list[int]:
    """The tags that the dimension indices of the frames count (PS3.3 C.7.6.17), from the items of the sequence."""
    pointers = []
    for item in _items(values):
        raw = item.get(_POINTER)
        halves = struct.unpack(order + "HH", raw) if isinstance(raw, bytes) and len(raw) == 4 else (0, 0)
        pointers.append(halves[0] << 16 | halves[1])
    return pointers


def _items(values: object) -> list[Values]:
    return values if isinstance(values, list) else []


def _tidy(words: str) -> str:
    """Words in capitals without stray blanks; the values of a list are sorted."""
    return "\\".join(sorted(re.sub(r"\s+", " ", word.strip().upper()) for word in words.split("\\"))) if words else ""


def _number(raw: object, order: str, *, binary: bool = False) -> float | None:
    """A decimal string (DS, IS), or a double (FD) of a functional group: eight bytes that are not text."""
    if not isinstance(raw, bytes):
        return None
    found = None if binary else decimal(text(raw), 1)
    if found and finite(found[0]) is not None:
        return found[0]
    return finite(struct.unpack(order + "d", raw)[0]) if len(raw) == 8 else None


def _direction(raw: object, order: str) -> str:
    """A diffusion gradient's direction to three decimals."""
    if not isinstance(raw, bytes) or len(raw) != 24:
        return ""
    return "\\".join(f"{value + 0.0:.3f}" for value in struct.unpack(order + "3d", raw))


def _indices(raw: object, order: str) -> list[int]:
    return list(struct.unpack(f"{order}{len(raw) // 4}I", raw[: len(raw) // 4 * 4])) if isinstance(raw, bytes) else []
