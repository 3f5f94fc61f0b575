"""The allow-list: the tags that are read from a DICOM file. A value without a tag here cannot leave ingest."""

from __future__ import annotations

TAGS = {
    "image_type": 0x00080008,
    "sop_class": 0x00080016,
    "sop": 0x00080018,
    "study_date": 0x00080020,
    "series_date": 0x00080021,
    "acquisition_date": 0x00080022,
    "content_date": 0x00080023,
    "acquisition_moment": 0x0008002A,
    "series_time": 0x00080031,
    "acquisition_time": 0x00080032,
    "content_time": 0x00080033,
    "modality": 0x00080060,
    "conversion_type": 0x00080064,
    "manufacturer": 0x00080070,
    "series_description": 0x0008103E,
    "name": 0x00100010,
    "patient": 0x00100020,
    "birth_date": 0x00100030,
    "sex": 0x00100040,
    "age": 0x00101010,
    "digitiser": 0x00181000,
    "secondary_device": 0x00181010,
    "contrast_agent": 0x00180010,
    "slice_thickness": 0x00180050,
    "kvp": 0x00180060,
    "echo_time": 0x00180081,
    "inversion_time": 0x00180082,
    "echo_number": 0x00180086,
    "slice_gap": 0x00180088,
    "trigger_time": 0x00181060,
    "kernel": 0x00181210,
    "flip_angle": 0x00181314,
    "energy": 0x0018937C,
    "b_value": 0x00189087,
    "study": 0x0020000D,
    "series": 0x0020000E,
    "series_number": 0x00200011,
    "acquisition": 0x00200012,
    "instance": 0x00200013,
    "position": 0x00200032,
    "orientation": 0x00200037,
    "frame_of_reference": 0x00200052,
    "temporal_position": 0x00200100,
    "num_temporal": 0x00200105,
    "cardiac_phase": 0x00209241,
    "concatenation": 0x00209161,
    "part": 0x00209162,
    "num_parts": 0x00209163,
    "images_in_acquisition": 0x00201002,
    "images_in_series": 0x00201209,
    "samples": 0x00280002,
    "photometric": 0x00280004,
    "frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "spacing": 0x00280030,
    "bits_allocated": 0x00280100,
    "bits_stored": 0x00280101,
    "high_bit": 0x00280102,
    "signed": 0x00280103,
    "padding": 0x00280120,
    "padding_limit": 0x00280121,
    "burned_in": 0x00280301,
    "intercept": 0x00281052,
    "slope": 0x00281053,
    "rescale_type": 0x00281054,
    "lossy": 0x00282110,
    "units": 0x00541001,
    "mosaic_count": 0x0019100A,
    "csa": 0x00291010,
    "tiles_of_sheet": 0x00651050,
}
SERIES_UID = TAGS["series"]
SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
ENERGY_GROUPS = (0x00189363, 0x00189364)
MODALITY_LUT = 0x00283000
REFERENCED_SERIES, REFERENCED_FRAMES = 0x00081115, 0x30060010
DIMENSIONS = 0x00209222

COMPARED_WORDS = {
    "sequence name": 0x00180024,
    "scanning sequence": 0x00180020,
    "sequence variant": 0x00180021,
    "scan options": 0x00180022,
    "protocol": 0x00181030,
    "series description": 0x0008103E,
    "complex component": 0x00089208,
    "kind of contrast agent": 0x00180010,
    "filter": 0x00181160,
    "receiving coil": 0x00181250,
    "position of the patient": 0x00185100,
    "corrections": 0x00280051,
    "diffusion direction": 0x00189089,
}
COMPARED_AMOUNTS = {
    "slice thickness": 0x00180050,
    "repetition time": 0x00180080,
    "echo train": 0x00180091,
    "averages": 0x00180083,
    "bandwidth": 0x00180095,
    "tube current": 0x00181151,
    "exposure time": 0x00181150,
    "duration of a frame": 0x00181242,
    "reference time": 0x00541300,
}
"""Amounts that are only compared between the slices of one series, by the names of the table in `attributes`."""

WANTED = frozenset([*TAGS.values(), *COMPARED_WORDS.values(), *COMPARED_AMOUNTS.values()])
"""The top-level tags of a file's header."""
SEQUENCES = frozenset(
    [SHARED_GROUPS, FRAME_GROUPS, REFERENCED_SERIES, REFERENCED_FRAMES, MODALITY_LUT, DIMENSIONS, *ENERGY_GROUPS]
)
"""Sequences whose items are kept: frames of an enhanced object and their sort keys, how values are read, and the series that a
label object describes.
"""
_SHAPE = ("samples", "photometric", "frames", "rows", "columns")
_BITS = ("bits_allocated", "bits_stored", "high_bit", "signed", "padding", "padding_limit", "lossy")
PIXELS_WANTED = frozenset(TAGS[name] for name in (*_SHAPE, *_BITS))
"""Exactly the tags that decoding the pixels needs."""
