"""Images that state no series, as some programs of de-identification leave them: those of one folder are taken as one series,
as far as they agree in what else distinguishes series and people: the number of the series, study, patient and sex.

Whether they are a volume is then judged as for any series: by what they state, and by their geometry. In a folder where other
images do state their series, an image without one is damaged; several whose identifier is one constant are a series of their own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from medssl.core.listing import minted
from medssl.ingest.refusal import Refusal

Row = dict[str, Any]
FEWEST = 3
"""Images that are enough for a constant identifier to be no damage."""
STATED = ("series_number", "study", "subject", "sex")
"""What distinguishes series and people where identifiers are gone."""


def name_series(rows: list[Row], key: bytes) -> list[tuple[Row, Refusal]]:
    """Give the images among rows of the inventory that state no series the group of their folder; those that are damaged."""
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
