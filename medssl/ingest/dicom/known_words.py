"""Free text and dates reduced to what may be known: a kernel or maker from a list, an age in whole years."""

from __future__ import annotations

import re

from medssl.ingest.dicom.fields import Fields

_MAKERS = {"siemens": "siemens", "ge med": "ge", "philips": "philips", "toshiba": "canon", "canon": "canon"}
_MAKERS |= {"hitachi": "fujifilm", "fujifilm": "fujifilm", "uih": "united-imaging", "united imaging": "united-imaging"}
_MAKERS |= {"hyperfine": "hyperfine", "neusoft": "neusoft", "elscint": "elscint", "picker": "picker", "bruker": "bruker"}
_KERNEL = re.compile(
    r"[A-Z]{1,2}[a-z]?\d{2,3}[a-z]?(\\\d)?|FC\d{2}(-H)?|[A-DL-Y][A-E]?|YA|YB|YC|YD|STANDARD|STND|STD\+?|SOFT|LUNG|BONE(PLUS)?|DETAIL"
    r"|EDGE|CHST|CHEST|ULTRA|B|SHARP|SMOOTH|Br\d\d[a-z]?|Hr\d\d[a-z]?|Bl\d\d[a-z]?|Qr\d\d[a-z]?"
)


def known_kernel(word: str) -> str | None:
    """A reconstruction kernel, if it is a known one of a scanner; other text is `other`."""
    first = word.split("\\")[0].strip()
    return None if not first else first if _KERNEL.fullmatch(first) else "other"


def known_maker(word: str) -> str | None:
    """The maker of a scanner by its code, `other` if it is not in the list."""
    low = word.lower()
    return next((code for start, code in _MAKERS.items() if low.startswith(start)), "other") if low else None


def age_years(fields: Fields) -> int | None:
    """Whole years, 90 and more as 90; from the age field, else from the birth date and the study date."""
    found = re.fullmatch(r"(\d{3})([DWMY])", fields.text("age"))
    if found:
        years = int(found[1]) if found[2] == "Y" else int(int(found[1]) / {"D": 365.25, "W": 52.18, "M": 12}[found[2]])
        return min(years, 90)
    birth, study = fields.text("birth_date"), fields.text("study_date")
    if re.fullmatch(r"\d{8}", birth) and re.fullmatch(r"\d{8}", study):
        years = int(study[:4]) - int(birth[:4]) - (study[4:] < birth[4:])
        # equal dates come from anonymisation, not from a newborn
        return min(years, 90) if 0 <= years <= 130 and study != birth else None
    return None
