"""In the reading process: the kind of a file, and its header."""

from __future__ import annotations

from medssl.ingest.dicom.header import read_header, sop_class_of
from medssl.ingest.dicom.object_kinds import is_never_an_image
from medssl.ingest.opening import READ_FOR_HEADER, kind_of, open_listed
from medssl.ingest.picture import npz_sets, picture_shape
from medssl.ingest.reading_dicom import parse_whole
from medssl.ingest.reading_nifti import file_header
from medssl.ingest.refusal import Answer, Refusal, Request


def scan(request: Request, key: bytes) -> Answer:
    """The kind of a file, and its header."""
    data = open_listed(request, READ_FOR_HEADER)
    kind = kind_of(data)
    if kind == "dicom":
        parsed = parse_whole(data)
        try:
            header = read_header(parsed, key)
        except Refusal as refusal:
            if refusal.code != "unsupported_object" or parsed.pixel_offset >= 0 or not is_never_an_image(sop_class_of(parsed)):
                # an object that never has pixels is not an image of the series that it states
                refusal.values = dict(parsed.values)
            raise
        return {"format": "dicom", "header": header.to_json()}
    if kind in ("nifti", "gzip", "nrrd", "metaimage"):
        return {"format": "nifti" if kind == "gzip" else kind, "header": file_header(data, kind, request)}
    if kind == "zip":
        return {"format": "npz", "header": {"sets": npz_sets(data)}}
    shape, dtype = picture_shape(data)
    return {"format": "png", "header": {"shape": shape, "dtype": dtype, "lossy": kind == "jpeg"}}
