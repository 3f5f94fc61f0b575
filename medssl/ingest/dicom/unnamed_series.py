"""Images without a series identifier, as some de-identification software leaves them. Those of one folder form one series if they
agree in what else distinguishes series and people: the series number, study, patient and sex.

Whether they are a volume is then judged as for any series: by what they state, and by their geometry. In a folder where other
images state their series, an image without one is damaged. Several with the same constant identifier are their own series.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from medssl.core.listing import minted
from medssl.ingest.refusal import Refusal

Row = dict[str, Any]
FEWEST = 3
"""How many images make a constant identifier a series rather than damage."""
STATED = ("series_number", "study", "subject", "sex")
"""What distinguishes series and people if identifiers are missing."""


def name_series(rows: list[Row], key: bytes) -> list[tuple[Row, Refusal]]:
    """Give images without a stated series the group of their folder; returns the damaged ones."""
    images = [row for row in rows if row["format"] == "dicom" and row["role"] == "image"]
    named = {_folder(row) for row in images if row["series"]}
    unnamed: dict[tuple[str, bool], list[Row]] = defaultdict(list)
    for row in images:
        if not row["series"]:
            header = json.loads(row["header"])
            row["group"] = minted(key, "s", "images of", _folder(row), *(str(header[name]) for name in STATED))
            unnamed[row["group"], header["sound_id"]].append(row)
    damaged = [
        row
        for (_, constant), rows in unnamed.items()
        for row in rows
        if _folder(row) in named and not (constant and len(rows) >= FEWEST)
    ]
    return [(row, Refusal("missing_tag", "no series identifier, beside images that have one")) for row in damaged]


def _folder(row: Row) -> str:
    return str(row["name"].rpartition("/")[0])
