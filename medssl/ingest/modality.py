"""Which modalities a source keeps; others are set aside with a code."""

from __future__ import annotations

import json

from medssl.core.file_names import UNKNOWN
from medssl.ingest.ledger import Row
from medssl.ingest.options import IngestOptions
from medssl.ingest.outcome import Outcome
from medssl.ingest.refusal import Refusal


def refused_by_modality(rows: list[Row], options: IngestOptions) -> Refusal | None:
    """Why a DICOM series is refused or set aside before any pixel is read; None if it is accepted.

    Modality is an attribute of the series (PS3.3 C.7.3.1). A series with several contradicts itself and is refused as a whole, as
    a
    slice could be missing unnoticed.
    """
    images = [row for row in rows if row["role"] == "image" and row["format"] == "dicom"]
    stated = sorted({json.loads(row["header"])["modality"] for row in images})
    if len(stated) > 1:
        return Refusal("mixed_modality", " and ".join(stated))
    if not options.modalities or not stated or stated[0] in options.modalities:
        return None
    return _refusal(stated[0], options)


def set_aside(rows: list[Row], options: IngestOptions, outcome: Outcome) -> None:
    """Remove the volumes of other modalities from a group's outcome; `rows` are its files."""
    if not options.modalities:
        return
    beside_volumes = any(row["beside_volumes"] for row in rows)
    for volume in outcome.volumes:
        if volume.row["format"] in ("png", "npz") and len(options.modalities) == 1 and not beside_volumes:
            volume.row["modality"] = options.modalities[0]
    for modality in sorted({volume.row["modality"] for volume in outcome.volumes} - set(options.modalities)):
        refusal = _refusal(modality, options, " (pictures beside volumes)" if beside_volumes else "")
        outcome.withdraw(
            [volume for volume in outcome.volumes if volume.row["modality"] == modality], refusal.code, refusal.sentence, rows
        )


def _refusal(modality: str, options: IngestOptions, what: str = "") -> Refusal:
    found = "not known" if modality == UNKNOWN else modality
    return Refusal("other_modality", f"{found}{what}, where {' and '.join(options.modalities)} is kept")
