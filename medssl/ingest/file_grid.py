"""What NRRD and MetaImage have in common: a text header, one data file, a grid of three axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from medssl.ingest.dicom.elements import Buffer
from medssl.ingest.packed import check_content
from medssl.ingest.refusal import Refusal
from medssl.volume.geometry import is_usable

MAX_HEADER_BYTES = 1 << 20
"""Limit of a header, which holds more than its fields: 3D Slicer adds lines for each segment, ITK the tags of the DICOM series.
"""

_UNITS_MM = {"mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "microns": 1e-3}
_UNITS_MM |= {"cm": 10.0, "m": 1e3, "meter": 1e3, "": 1.0, "???": 1.0, "?": 1.0}


def as_header(
    data: Buffer,
    *,
    shape: list[int],
    affine: np.ndarray,
    dtype: np.dtype,
    start: int,
    packed: bool,
    data_file: str | None,
) -> dict[str, Any]:
    """A header in the form for `packed.read_stored`; an attached file must be large enough for what it declares.

    Raises:
        Refusal: `bad_affine`, `truncated`, `corrupt` or `bomb`.
    """
    if not is_usable(affine):
        raise Refusal("bad_affine", "of three axes")
    header = {
        "shape": shape,
        "affine": affine.tolist(),
        "dtype": dtype.str,
        "slope": 1.0,
        "intercept": 0.0,
        "start": start,
        "offset": 0,
        "bytes": math.prod(shape) * dtype.itemsize,
        "packed": packed,
        "data_file": data_file,
    }
    if data_file is None:
        check_content(data, header)
    return header


def plain_name(name: str) -> str:
    """The name of a data file in its header's folder.

    Raises:
        Refusal: `missing_data` if the name leads to another folder, `many_files` if it denotes several files.
    """
    name = name.strip().removeprefix("./")
    if name.upper() == "LIST" or name.upper().startswith("LIST ") or "%" in name:
        raise Refusal("many_files")
    if not name or name in (".", "..") or any(sign in name for sign in "/\\\0") or len(name) > 255:
        raise Refusal("missing_data", "its name leads to another folder")
    return name


def unit_mm(word: str) -> float:
    """Millimetres in a unit of length.

    Raises:
        Refusal: the unit is unknown.
    """
    found = _UNITS_MM.get(word.strip().strip('"').lower())
    if found is None:
        raise Refusal("bad_affine", "a unit of length that is not known")
    return found
