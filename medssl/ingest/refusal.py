"""A refusal: a code, a sentence, and never anything personal."""

from __future__ import annotations

from typing import Any

from medssl.ingest.codes import sentence_of

Request = dict[str, Any]
"""What a reading process is asked: numbers, codes and paths, as JSON."""
Answer = dict[str, Any]
"""What it answers: what was asked for, or `code` and `sentence` of a refusal."""


class Refusal(Exception):
    """Why a file or series is not accepted: no error of the program, a finding.

    The sentence holds numbers and codes, nothing from a free-text field.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        self.sentence = sentence_of(code) + (f": {detail}" if detail else "") + "."
        self.values: dict[int, object] = {}
        """What was read of a damaged DICOM file before the damage; never leaves the reading process."""
        super().__init__(self.sentence)

    def answer(self) -> Answer:
        """The refusal as the answer to a request."""
        return {"code": self.code, "sentence": self.sentence}
