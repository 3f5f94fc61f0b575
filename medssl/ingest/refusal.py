"""A refusal: a code, a sentence, and never anything personal."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from medssl.ingest.codes import sentence_of

Request = dict[str, Any]
"""A request to a reading process: numbers, codes and paths, as JSON."""
Answer = dict[str, Any]
"""Its answer: the result, or `code` and `sentence` of a refusal."""


class Refusal(Exception):
    """Why a file or series is not accepted: a finding, not an error of the program.

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
"""Number of ids in a sentence before the rest is only counted."""


NAME_IT = "give it the folder or the whole name of its image"
"""The remedy if names decide which image a mask is for,"""
ROW_FOR_IT = f"a column `mask` of the label table says which, or {NAME_IT}"
"""and if a label table may say it."""


def several_meant(ids: Collection[str], remedy: str) -> Refusal:
    """The refusal of a mask that fits several images, which are named by their ids."""
    named = sorted(set(ids))
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return Refusal(
        "mask_without_image",
        f"{len(named)} images may be meant, {', '.join(named[:MOST_NAMED])}{more}; {remedy}",
    )
