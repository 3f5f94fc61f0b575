"""Values of a DICOM file as numbers and words, by the names of the allow-list."""

from __future__ import annotations

import datetime
import math
import re
import struct

from medssl.ingest.dicom.elements import Values, text
from medssl.ingest.dicom.tags import TAGS

FORGOTTEN_DAYS = 1000
"""Without a study date, days are counted modulo this: two scans stay separate, and no date is kept."""


class Fields:
    """The top-level values of a file. A malformed value counts as missing, except where numbers matter."""

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

    def float32(self, name: str) -> float | None:
        value = self.values.get(TAGS[name])
        return finite(struct.unpack(self.order + "f", value)[0]) if isinstance(value, bytes) and len(value) == 4 else None

    def clock_s(self, name: str, date: str) -> float | None:
        """Seconds since the midnight before the study; without dates, since midnight. It reveals no date.

        Source: PS3.5 6.2: TM may omit minutes and seconds, and once had colons.
        """
        return self._seconds(self.text(name), self._day(self.text(date)))

    def moment_s(self, moment: str) -> float | None:
        """The same for words with date and time in one (DT, PS3.5 6.2); their offset from UTC is ignored."""
        words = re.split(r"[+-]", moment)[0]
        return self._seconds(words[8:], self._day(words[:8]))

    def _seconds(self, time: str, own: int | None) -> float | None:
        found = re.fullmatch(r"(\d\d)(?::?(\d\d)(?::?(\d\d(?:\.\d+)?))?)?", time)
        if not found:
            return None
        study = self._day(self.text("study_date"))
        days = 0 if own is None else own - study if study is not None else own % FORGOTTEN_DAYS
        return days * 86400.0 + int(found[1]) * 3600.0 + int(found[2] or 0) * 60.0 + float(found[3] or 0)

    def _day(self, words: str) -> int | None:
        found = re.fullmatch(r"(\d{4})[.]?(\d\d)[.]?(\d\d)", words)
        try:
            return datetime.date(int(found[1]), int(found[2]), int(found[3])).toordinal() if found else None
        except ValueError:
            return None

    def rescale(self, name: str) -> float | None:
        """The number of a rescale tag; None if the tag is missing, NaN if it is present without a single number."""
        return one_number(self.text(name)) if TAGS[name] in self.values else None


def decimal(words: str, count: int) -> list[float] | None:
    """`count` decimal numbers separated by backslashes; an invalid one becomes NaN, so that it is noticed."""
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


def one_number(words: str) -> float:
    """The number in a decimal string, NaN if it is empty, several, or invalid."""
    found = decimal(words, 1)
    return found[0] if found else math.nan


def finite(value: float) -> float | None:
    """The value, unless it is NaN or infinite."""
    return value if math.isfinite(value) else None


def coded_word(word: str) -> str:
    """A coded word (CS): capitals, digits and underscore, at most 16; only for comparison, never printed."""
    return re.sub(r"[^A-Z0-9_ ]", "", word.upper().strip())[:16]
