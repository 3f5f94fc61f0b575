"""Values of a DICOM file as numbers and words, by the names of the allow-list."""

from __future__ import annotations

import math
import re
import struct

from medssl.ingest.dicom.elements import Values, text
from medssl.ingest.dicom.tags import TAGS


class Fields:
    """The top-level values of a file. A value of the wrong form is as good as absent, except where numbers matter."""

    def __init__(self, values: Values, big: bool) -> None:
        self.values, self.order = values, ">" if big else "<"

    def text(self, name: str) -> str:
        return text(self.values.get(TAGS[name], b""))

    def code(self, name: str) -> str:
        return coded_word(self.text(name))

    def numbers(self, name: str, count: int) -> list[float] | None:
        return decimal(self.text(name), count)

    def number(self, name: str) -> float | None:
        found = decimal(self.text(name), 1)
        return found[0] if found else None

    def integer(self, name: str) -> int | None:
        word = self.text(name)
        return int(word) if re.fullmatch(r"[+-]?\d{1,12}", word) else None

    def unsigned(self, name: str) -> int | None:
        value = self.values.get(TAGS[name])
        return struct.unpack(self.order + "H", value[:2])[0] if isinstance(value, bytes) and len(value) >= 2 else None

    def signed16(self, name: str) -> int | None:
        value = self.values.get(TAGS[name])
        return struct.unpack(self.order + "h", value[:2])[0] if isinstance(value, bytes) and len(value) >= 2 else None

    def float64(self, name: str) -> float | None:
        value = self.values.get(TAGS[name])
        return finite(struct.unpack(self.order + "d", value)[0]) if isinstance(value, bytes) and len(value) == 8 else None

    def clock_s(self, name: str) -> float | None:
        found = re.fullmatch(r"(\d\d)(\d\d)(\d\d(?:\.\d+)?)", self.text(name))
        return int(found[1]) * 3600.0 + int(found[2]) * 60.0 + float(found[3]) if found else None


def decimal(words: str, count: int) -> list[float] | None:
    """`count` decimal numbers separated by backslashes; NaN stands for a number that is none, so that it is noticed."""
    if not words:
        return None
    parts = words.split("\\")
    if len(parts) != count:
        return None
    found = []
    for part in parts:
        try:
            found.append(float(part))
        except ValueError:
            found.append(math.nan)
    return found


def finite(value: float) -> float | None:
    """The value, unless it is NaN or infinite."""
    return value if math.isfinite(value) else None


def coded_word(word: str) -> str:
    """A coded word (CS): capitals, digits and underscore, at most 16; it may only be compared, never printed."""
    return re.sub(r"[^A-Z0-9_ ]", "", word.upper().strip())[:16]
