"""What kind of DICOM object a file is: an image of a patient, a label object, or something that is refused."""

from __future__ import annotations

import re

from medssl.ingest.dicom.elements import Values, text
from medssl.ingest.dicom.fields import Fields
from medssl.ingest.dicom.tags import REFERENCED_FRAMES, REFERENCED_SERIES, SERIES_UID

IMAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
}
LEGACY_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
}
SECONDARY_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.7{tail}" for tail in ("", ".1", ".2", ".3", ".4"))
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
DICOMDIR = "1.2.840.10008.1.3.10"
SAVED = frozenset(["SAVE", "SAVED", "SAVES", "SCREENSAVE", "SCREENSAVED", "SCREENSAVES"])
"""Words of screen captures."""


def role_of(fields: Fields, sop_class: str) -> tuple[str, str]:
    """What to do with an object of this class and type: (`image` or a refusal code, modality)."""
    modality = fields.text("modality")
    if sop_class == DICOMDIR:
        return "dicomdir", modality
    if sop_class in SECONDARY_CLASSES:
        return "secondary_capture", "OT"
    if sop_class in (SEGMENTATION, STRUCTURE_SET):
        return "label", "SEG" if sop_class == SEGMENTATION else "RTSTRUCT"
    if not sop_class and not modality:
        # cut before either: the missing pixels will tell
        return "image", modality
    known = IMAGE_CLASSES.get(sop_class) or LEGACY_CLASSES.get(sop_class)
    if known is None:
        imaging = modality in ("US", "XA", "RF", "CR", "DX", "MG", "NM", "IVUS", "OPT", "ES", "XC", "GM", "SM", "OP", "IO", "PX")
        if sop_class.startswith("1.2.840.10008.5.1.4.1.1.") and not imaging:
            return "unsupported_object", "OT"
        if modality not in ("CT", "MR", "PT"):
            return "unsupported_modality", "OT"
        known = modality
    types = fields.text("image_type").upper().split("\\")
    # an empty tag says nothing: exports write every tag that they know
    if fields.text("secondary_device"):
        return "secondary_capture", known
    if _may_show_names(fields, types):
        return "burned_in", known
    return role_of_type(types), known


def _may_show_names(fields: Fields, types: list[str]) -> bool:
    """Whether an image says of itself that text may be part of its pixels.

    Source: PS3.3 C.7.6.1.1.3 (Burned In Annotation), and the filter BurnedInPixels of the RSNA's CTP, which passes no screen
    saves and no digitised film; of a description whole words count (`Screen Save`, not `SaveBySlc`).
    """
    described = re.split(r"[^A-Z0-9]+", " ".join([*types, fields.text("series_description").upper()]))
    if fields.text("burned_in").upper() == "YES" or SAVED & set(described):
        return True
    return bool(fields.text("digitiser")) and fields.text("conversion_type") in ("DF", "DV", "SI", "SD", "DRW")


def role_of_type(words: list[str]) -> str:
    """What an image type or a frame type makes of an image: `image`, `localizer` or `derived`."""
    if any(word in ("LOCALIZER", "SCOUT", "TOPOGRAM") for word in words):
        return "localizer"
    return "derived" if words[:1] == ["DERIVED"] else "image"


def described_series(values: Values) -> list[str]:
    """Series that a SEG names in its top-level sequence, or an RTSTRUCT three levels deep."""
    found, waiting = set(), [values.get(REFERENCED_SERIES), values.get(REFERENCED_FRAMES)]
    while waiting:
        items = waiting.pop()
        for item in items if isinstance(items, list) else []:
            if text(item.get(SERIES_UID)):
                found.add(text(item.get(SERIES_UID)))
            waiting += [value for value in item.values() if isinstance(value, list)]
    return sorted(found)
