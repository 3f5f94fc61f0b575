"""NRRD: the header through pynrrd, of bounded length and with allow-listed fields only.

pynrrd does not read the values: it would open any file that a header names, and does not verify what it unpacks.

Source: Definition of NRRD File Format, https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from medssl.ingest.dicom.elements import Buffer
from medssl.ingest.file_grid import MAX_HEADER_BYTES, as_header, plain_name, unit_mm
from medssl.ingest.refusal import Refusal

NUMBERS = ("dimension", "space dimension", "line skip", "byte skip")
WORDS = ("type", "encoding", "endian", "space", "kinds", "data file")
LISTS = ("sizes", "spacings", "space directions", "space origin", "space units", "old min", "old max")
ANOTHER_NAME = {
    **{"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"},
    **{"oldmin": "old min", "oldmax": "old max"},
}
MAX_LINE_BYTES, MAX_AXES = 1 << 16, 16

TYPES = {
    name: stored
    for stored, names in {
        "i1": ("signed char", "int8", "int8_t"),
        "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
        "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
        "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
        "i4": ("int", "signed int", "int32", "int32_t"),
        "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
        "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
        "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
        "f4": ("float",),
        "f8": ("double",),
    }.items()
    for name in names
}

TO_RAS = {
    **{name: (1.0, 1.0, 1.0) for name in ("right-anterior-superior", "ras")},
    **{name: (-1.0, 1.0, 1.0) for name in ("left-anterior-superior", "las")},
    **{name: (-1.0, -1.0, 1.0) for name in ("left-posterior-superior", "lps")},
}
"""The spaces relative to the patient; the sign of their axes in RAS+."""

SCALAR_KINDS = ("domain", "space", "none", "???")


def read_nrrd_header(data: Buffer, *, no_space: str = "refuse") -> dict[str, Any]:
    """Shape, affine (RAS+ mm), stored type and location of the values; no free-text fields.

    Raises:
        Refusal: the header or its space cannot be trusted, or the file is too short for what it declares.
    """
    fields, end = _fields(data)
    if any(name in fields for name in ("old min", "old max")):
        raise Refusal("unsupported_pixels", "quantised values (old min, old max)")
    sizes = [int(n) for n in fields.get("sizes", [])]
    if len(sizes) != fields.get("dimension") or not 1 <= len(sizes) <= MAX_AXES or min(sizes) < 1:
        raise Refusal("corrupt", f"{len(sizes)} sizes of {fields.get('dimension', 'no')} dimensions")
    axes = _axes_of_space(fields, sizes)
    shape = [sizes[axis] for axis in axes]
    packed, dtype = _encoding(fields)
    name = fields.get("data file")
    skip = fields.get("byte skip", 0)
    if fields.get("line skip", 0) or skip < -1 or (packed and skip):
        raise Refusal("unsupported_encoding", f"line skip {fields.get('line skip', 0)}, byte skip {skip}")
    return as_header(
        data,
        shape=shape,
        affine=_affine(fields, axes, no_space),
        dtype=dtype,
        start=-1 if skip == -1 else skip + (0 if name else end),
        packed=packed,
        data_file=None if name is None else plain_name(name),
    )


def _fields(data: Buffer) -> tuple[dict[str, Any], int]:
    """The allow-listed fields as pynrrd reads them, and the header's end."""
    import nrrd

    head = bytes(data[:MAX_HEADER_BYTES])
    lines = [head[:8].decode("ascii", "replace").rstrip()]
    at, ended, wanted = head.find(b"\n") + 1, False, (*NUMBERS, *WORDS, *LISTS)
    while 0 < at < len(head):
        stop = head.find(b"\n", at)
        line, at = head[at : stop if stop >= 0 else len(head)].rstrip(), stop + 1
        if not line:
            ended = stop >= 0
            break
        name, colon, value = line.partition(b":")
        field = name.decode("ascii", "replace").strip().lower()
        field = ANOTHER_NAME.get(field, field)
        if line.startswith(b"#") or value.startswith(b"=") or not colon or field not in wanted:
            continue
        if len(line) > MAX_LINE_BYTES:
            raise Refusal("corrupt", f"a header line of {len(line)} bytes")
        lines.append(f"{field}: {value.decode('utf-8', 'surrogateescape').strip()}")
    if not ended and len(data) > MAX_HEADER_BYTES:
        raise Refusal("corrupt", f"a header of more than {MAX_HEADER_BYTES} bytes")
    try:
        fields = dict(nrrd.read_header(lines))
    except Exception:
        raise Refusal("corrupt", "the NRRD header") from None
    if not ended and "data file" not in fields:
        raise Refusal("truncated", "inside the NRRD header")
    return fields, at if ended else len(head)


def _axes_of_space(fields: dict[str, Any], sizes: list[int]) -> list[int]:
    """The three spatial axes.

    Raises:
        Refusal: there are others, of colours, vectors, lists or time, or too few.
    """
    kinds = [kind.lower() for kind in fields.get("kinds", [])] or ["???"] * len(sizes)
    if len(kinds) != len(sizes):
        raise Refusal("corrupt", f"{len(kinds)} kinds of {len(sizes)} dimensions")
    others = [n for n, kind in enumerate(kinds) if kind not in SCALAR_KINDS]
    directions = fields.get("space directions")
    if directions is not None:
        directions = np.asarray(directions, float).reshape(-1, np.shape(directions)[-1])
        if len(directions) != len(sizes):
            raise Refusal("corrupt", f"{len(directions)} space directions of {len(sizes)} dimensions")
        others += [n for n in range(len(sizes)) if np.isnan(directions[n]).all() and n not in others]
    if any(kinds[n] in (*SCALAR_KINDS, "time", "list") and sizes[n] > 1 for n in others):
        raise Refusal("many_dimensions", f"sizes {sizes}, of which {len(sizes) - len(others)} are of space")
    if any(sizes[n] > 1 for n in others):
        raise Refusal("not_scalar", f"sizes {sizes}, of which {len(sizes) - len(others)} are of space")
    axes = [n for n in range(len(sizes)) if n not in others]
    if len(axes) > 3:
        raise Refusal("many_dimensions", f"sizes {sizes}")
    if len(axes) < 3:
        raise Refusal("few_slices", f"sizes {sizes}: one plane")
    return axes


def _affine(fields: dict[str, Any], axes: list[int], no_space: str) -> np.ndarray:
    """From voxels to RAS+ mm; with `no_space: pixdim` only the voxel sizes.

    Raises:
        Refusal: `no_space`.
    """
    signs = TO_RAS.get(fields.get("space", "").lower())
    directions, origin = fields.get("space directions"), fields.get("space origin")
    units = {unit_mm(word) for word in fields.get("space units", [])} or {1.0}
    if len(units) > 1:
        raise Refusal("bad_affine", "space units that differ")
    mm = units.pop()
    columns = None if directions is None else np.asarray(directions, float)[axes].T * mm
    if columns is not None and columns.shape != (3, 3):
        raise Refusal("bad_affine", f"space directions of {columns.shape[0]} numbers")
    affine = np.eye(4)
    if signs is not None and columns is not None and origin is not None:
        if np.shape(origin) != (3,):
            raise Refusal("bad_affine", f"a space origin of {np.size(origin)} numbers")
        affine[:3, :3], affine[:3, 3] = columns, np.asarray(origin, float) * mm
        affine[:3] *= np.array(signs)[:, None]
        return affine
    if no_space != "pixdim":
        raise Refusal("no_space", "NRRD without a patient's space, directions and origin")
    spacings = fields.get("spacings")
    if columns is None and (spacings is None or len(spacings) <= max(axes)):
        raise Refusal("bad_affine", "no usable voxel sizes")
    sizes = np.linalg.norm(columns, axis=0) if columns is not None else np.abs(np.asarray(spacings, float)[axes])
    return np.diag([*sizes, 1.0])


def _encoding(fields: dict[str, Any]) -> tuple[bool, np.dtype]:
    """Whether the values are packed, and their type."""
    encoding, kind = fields.get("encoding", "").lower(), fields.get("type", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise Refusal("unsupported_encoding")
    if kind not in TYPES:
        raise Refusal("not_scalar", "a type that is not a number")
    dtype = np.dtype(TYPES[kind])
    orders: dict[str, Literal["<", ">"]] = {"little": "<", "big": ">"}
    order = orders.get(fields.get("endian", "").lower())
    if dtype.itemsize > 1 and order is None:
        raise Refusal("corrupt", "the order of bytes is not said")
    return encoding != "raw", dtype.newbyteorder(order or "=")
