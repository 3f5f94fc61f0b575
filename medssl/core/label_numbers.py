"""Labels that are numbers: a measured value, or a time to an event and whether the event happened."""

from __future__ import annotations

import math
import re

from medssl.core.label_table import MANY

FEWEST_EVENTS = 5
"""Events that training and test need each: with fewer, neither a fit nor its score says anything."""
HAPPENED = {"0": False, "1": True, "0.0": False, "1.0": True}
"""Texts of the column `event`: 0 for a case that was lost from view before it (censored), 1 for the event. Programs write 1.0
where a column has empty cells."""
LARGEST = 1e15
"""No measured value is larger; the square of a much larger one has no place in arithmetic."""
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
"""`62,500`, in which the comma may be a decimal sign or separate thousands."""


def number_of(text: str) -> float | None:
    """The finite number that a label is; None if it is not one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def why_no_number(text: str) -> str:
    """Why a label is not a number, as `'63,5' is not a number …`; empty if it is one."""
    number = number_of(text)
    if number is not None and abs(number) <= LARGEST:
        return ""
    if number is not None:
        return f"{text!r} is beyond {LARGEST:g}, which no measured value is; correct it, or choose a larger unit"
    if MANY in text:
        return f"{text!r} is several labels; expected one number"
    if _THOUSANDS.fullmatch(text):
        return f"{text!r} is not a number; write no separator of thousands, and the decimal sign as a point"
    if number_of(text.replace(",", ".")) is not None:
        return f"{text!r} is not a number; write the decimal sign as a point"
    return f"{text!r} is not a finite number"


def why_no_time(text: str) -> str:
    """Why a label is not a time to an event; empty if it is one."""
    if why := why_no_number(text):
        return why
    return "" if float(text) > 0 else f"{text!r} is not a time: it must be above 0. Count time from the image to the event"


def why_no_event(text: str | None) -> str:
    """Why the value of the column `event` says nothing; empty if it does."""
    if text is None:
        return "there is a time and no event; expected 1 (it happened) or 0 (censored)"
    return "" if text in HAPPENED else f"the event {text!r} is neither 1 (it happened) nor 0 (censored)"


def plain_number(number: float) -> str:
    """A number as text without a needless fraction: `63` for 63.0."""
    return f"{number:.15g}"
