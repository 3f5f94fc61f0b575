"""Identifiers that de-identification software wrote instead of a true one; they count as missing."""

from __future__ import annotations

import itertools
import re

PLACEHOLDERS = (
    *("anonymous", "anonymized", "anonymised", "anonym", "anon", "anonymous patient", "anonymous_patient", "anonymous^patient"),
    *("deidentified", "de-identified", "deid", "redacted", "removed", "hidden", "masked", "unknown", "none", "null", "na", "n/a"),
    *("noname", "no_name", "no name", "patient", "patientid", "patient_id", "patient id", "subject", "id", "test", "xxx", "xxxx"),
    *("x", "-", "_", ".", "?", "0", "00", "000", "0000", "00000", "000000", "0000000", "00000000"),
    *("12345", "123456", "12345678", "123456789"),
)
"""What de-identification software writes instead of a PatientID, in lower case."""


def is_placeholder_id(patient: str) -> bool:
    """Whether a PatientID identifies no patient: it is empty, or a placeholder."""
    return not patient or patient.lower() in PLACEHOLDERS


def is_placeholder_name(name: str) -> bool:
    """Whether a PatientName identifies no patient: all of its parts (PS3.5 6.2.1.1) are placeholders.

    >>> is_placeholder_name("Anonymous^Patient"), is_placeholder_name("^^"), is_placeholder_name("Meier^Hans")
    (True, True, False)
    """
    return all(is_placeholder_id(part) for part in re.split(r"[\^= ,]+", name))


def true_uid(uid: str) -> str:
    """A UID, or empty if it is a constant that belongs to no object: `0`, `0.0.0`, `1.1.1.1`, `1.2.3.4`.

    Source: PS3.5 9.1: a UID has a registered root and its own suffix; no root is registered under these numbers.
    """
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", uid):
        return uid
    parts = [int(part[:18]) for part in uid.split(".")]
    steps = {after - before for before, after in itertools.pairwise(parts)}
    return "" if len(parts) == 1 or steps in ({0}, {1}) else uid
