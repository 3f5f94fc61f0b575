"""A refusal: a code, a sentence, and never anything personal."""

from __future__ import annotations

from collections.abc import Collection
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
        self.code, self.detail = code, detail
        self.sentence = sentence_of(code) + (f": {detail}" if detail else "") + "."
        self.values: dict[int, object] = {}
        """What was read of a damaged DICOM file before the damage; never leaves the reading process."""
        super().__init__(self.sentence)

    def answer(self) -> Answer:
        """The refusal as the answer to a request."""
        return {"code": self.code, "sentence": self.sentence}


MOST_NAMED = 5
"""Ids in a sentence, before the rest is counted."""


NAME_IT = "give it the folder or the whole name of its image"
"""What helps where names decide whose a mask is,"""
ROW_FOR_IT = f"a column `mask` of the label table says which, or {NAME_IT}"
"""and where a label table may say it."""


def several_meant(ids: Collection[str], remedy: str) -> Refusal:
    """That a mask may be of several images, which are named by their ids."""
    named = sorted(set(ids))
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return Refusal(
        "mask_without_image",
        f"{len(named)} images may be meant, {', '.join(named[:MOST_NAMED])}{more}; {remedy}",
    )
