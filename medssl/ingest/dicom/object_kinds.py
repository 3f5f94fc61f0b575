"""The kind of a DICOM file: an image of a patient, a label object, or something that is refused."""

from __future__ import annotations

import re

from medssl.ingest.dicom.elements import Values, text
from medssl.ingest.dicom.fields import Fields
from medssl.ingest.dicom.tags import REFERENCED_FRAMES, REFERENCED_SERIES, SERIES_UID, TAGS

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
NEVER_IMAGES = (
    "1.2.840.10008.",  # of the standard: all but the images above
    "1.3.12.2.1107.5.9.1",  # Siemens: CSA Non-Image
    "1.3.46.670589.11.0.0.12.",  # Philips: MR series data, examination cards, spectra
    "1.2.840.113619.4.",  # GE: raw data, models, displays
    "1.2.392.200036.9116.7.8.1.1.1",  # Toshiba: private data
)
"""Classes, or roots of classes, whose objects never have pixels (from the makers' conformance statements)."""
OF_AN_IMAGE = ("rows", "columns", "bits_allocated", "spacing", "position", "orientation")
"""Fields that only an image states."""
OF_PATIENTS = ("image", "derived", "localizer", "burned_in")
"""Results of `role_of` for images of a patient."""
SAVED = frozenset(["SAVE", "SAVED", "SAVES", "SCREENSAVE", "SCREENSAVED", "SCREENSAVES"])
"""Words of screen captures."""


def role_of(fields: Fields, sop_class: str) -> tuple[str, str]:
    """The role of an object of this class and type: (`image` or a refusal code, modality)."""
    modality = fields.text("modality")
    if sop_class == DICOMDIR:
        return "dicomdir", modality
    if sop_class in SECONDARY_CLASSES:
        return "secondary_capture", "OT"
    if sop_class in (SEGMENTATION, STRUCTURE_SET):
        return "label", "SEG" if sop_class == SEGMENTATION else "RTSTRUCT"
    if not sop_class and not modality:
        # cut before either: the missing pixels will show it
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
    # an empty tag carries no information: exports write every tag that they know
    if fields.text("secondary_device"):
        return "secondary_capture", known
    if _may_show_names(fields, types):
        return "burned_in", known
    return role_of_type(types), known


def is_without_image(fields: Fields, sop_class: str) -> bool:
    """Whether an object without pixel data, read to its end, never had any: neither its class nor its content is an image's.

    An image that was cut exactly between two elements has lost its pixel data as well; its class or its matrix shows it.
    """
    if sop_class in IMAGE_CLASSES or sop_class in LEGACY_CLASSES or not sop_class:
        return False
    return is_never_an_image(sop_class) or not any(fields.values.get(TAGS[name]) for name in OF_AN_IMAGE)


def is_never_an_image(sop_class: str) -> bool:
    """Whether objects of a class other than images have no pixels, as far as is known."""
    return sop_class not in IMAGE_CLASSES and sop_class not in LEGACY_CLASSES and sop_class.startswith(NEVER_IMAGES)


def _may_show_names(fields: Fields, types: list[str]) -> bool:
    """Whether an image states that its pixels may contain text.

    Source: PS3.3 C.7.6.1.1.3 (Burned In Annotation), and the filter BurnedInPixels of the RSNA's CTP, which passes no screen
    saves and no digitised film. Only whole words of a description count (`Screen Save`, not `SaveBySlc`).
    """
    described = re.split(r"[^A-Z0-9]+", " ".join([*types, fields.text("series_description").upper()]))
    if fields.text("burned_in").upper() == "YES" or SAVED & set(described):
        return True
    return bool(fields.text("digitiser")) and fields.text("conversion_type") in ("DF", "DV", "SI", "SD", "DRW")


def role_of_type(words: list[str]) -> str:
    """The role of an image by its image type or frame type: `image`, `localizer` or `derived`."""
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
