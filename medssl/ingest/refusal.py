"""A refusal: a code, a sentence, and never anything personal."""

from __future__ import annotations

from medssl.ingest.codes import CODES


class Refusal(Exception):
    """Why a file or series is not accepted: no error of the program, a finding.

    The sentence holds numbers and codes, nothing from a free-text field.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        if code not in CODES:
            raise ValueError(f"unknown refusal code {code!r}")
        self.code = code
        self.sentence = f"{CODES[code]}" + (f": {detail}" if detail else "") + "."
        self.values: dict[int, object] = {}
        """What was read of a damaged DICOM file before the damage; never leaves the reading process."""
        super().__init__(self.sentence)
