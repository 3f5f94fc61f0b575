"""MetaImage: a header of lines `key = value`, of bounded length and with allow-listed keys only.

The library that writes these files, ITK, cannot be used on hostile ones: it opens whatever a header names, anywhere.

Source: MetaIO, https://itk.org/Wiki/MetaIO/Documentation, and ITK's MetaImageIO for the meaning of each key.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.ingest.dicom.elements import Buffer
from medssl.ingest.file_grid import MAX_HEADER_BYTES, as_header, plain_name, unit_mm
from medssl.ingest.refusal import Refusal
from medssl.volume.geometry import LPS_TO_RAS, axis_codes

TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4"},
    **{"MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"},
    **{"MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
ANOTHER_NAME = {
    **{"Position": "Offset", "Origin": "Offset", "Rotation": "TransformMatrix", "Orientation": "TransformMatrix"},
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
KEYS = frozenset(
    [
        *("ObjectType", "NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "BinaryData", "BinaryDataByteOrderMSB"),
        *("CompressedData", "HeaderSize", "ElementSpacing", "Offset", "TransformMatrix", "DistanceUnits"),
        *("AnatomicalOrientation", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "ElementDataFile"),
        "Modality",
    ]
)
MODALITIES = {"MET_MOD_CT": "CT", "MET_MOD_MR": "MR", "MET_MOD_US": "OT"}
"""Values of the key Modality; nuclear medicine (MET_MOD_NM) may be PET or not, and OTHER and UNKNOWN carry no information."""
_OPPOSITE = str.maketrans("LRPAIS", "RLAPSI")


def read_metaimage_header(data: Buffer, *, no_space: str = "refuse") -> dict[str, Any]:
    """Shape, affine (RAS+ mm), stored type and location of the values; no free-text fields.

    Raises:
        Refusal: the header or its space cannot be trusted, or the file is too short for what it declares.
    """
    keys, end = _keys(data)
    if keys.get("ObjectType", "Image") != "Image":
        raise Refusal("unsupported_object", "a MetaIO object that is not an image")
    sizes = [int(n) for n in _numbers(keys, "DimSize", whole=True)]
    if str(len(sizes)) != keys.get("NDims") or min(sizes, default=0) < 1:
        raise Refusal("corrupt", f"{len(sizes)} sizes")
    if len(sizes) > 3:
        raise Refusal("many_dimensions", f"sizes {sizes[:8]}")
    if len(sizes) < 3:
        raise Refusal("few_slices", f"sizes {sizes}: one plane")
    if keys.get("ElementNumberOfChannels", "1") != "1" or keys.get("ElementType") not in TYPES:
        raise Refusal("not_scalar", "several channels, or a type that is not a number")
    for name, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if name in keys and _numbers(keys, name) != [neutral]:
            raise Refusal("bad_rescale", "an intensity function, which readers of MetaImage do not apply")
    if not _flag(keys, "BinaryData", True):
        raise Refusal("unsupported_encoding", "numbers as text")
    packed, name = _flag(keys, "CompressedData", False), keys["ElementDataFile"]
    attached = name.upper() == "LOCAL"
    skip = int(_numbers(keys, "HeaderSize", whole=True)[0]) if "HeaderSize" in keys else 0
    if skip < -1 or (skip and (packed or attached)):
        raise Refusal("unsupported_encoding", f"a header of {skip} bytes before the values")
    order = ">" if _flag(keys, "BinaryDataByteOrderMSB", False) else "<"
    header = as_header(
        data,
        shape=sizes,
        affine=_affine(keys, no_space),
        dtype=np.dtype(order + TYPES[keys["ElementType"]]),
        start=end if attached else skip,
        packed=packed,
        data_file=None if attached else plain_name(name),
    )
    stated = MODALITIES.get(keys.get("Modality", ""))
    return header | ({"modality": stated} if stated else {})


def _keys(data: Buffer) -> tuple[dict[str, str], int]:
    """The allow-listed keys, up to the one that ends the header, and the header's end."""
    head = bytes(data[:MAX_HEADER_BYTES])
    found: dict[str, str] = {}
    at = 0
    while at < len(head):
        stop = head.find(b"\n", at)
        line, at = head[at : stop if stop >= 0 else len(head)], stop + 1 if stop >= 0 else len(head)
        key, equals, value = line.partition(b"=")
        name = key.decode("ascii", "replace").strip()
        name = ANOTHER_NAME.get(name, name)
        if not equals or name not in KEYS:
            continue
        text = value.decode("utf-8", "surrogateescape").strip()
        if found.setdefault(name, text) != text:
            raise Refusal("corrupt", f"two values of {name}")
        if name == "ElementDataFile":
            return found, at
    if len(data) > MAX_HEADER_BYTES:
        raise Refusal("corrupt", f"a header of more than {MAX_HEADER_BYTES} bytes")
    raise Refusal("truncated", "inside the MetaImage header")


def _affine(keys: dict[str, str], no_space: str) -> np.ndarray:
    """From voxels to RAS+ mm. The first three numbers of TransformMatrix are the direction of the first axis, in LPS."""
    mm = unit_mm(keys.get("DistanceUnits", "mm"))
    spacing = np.array(_numbers(keys, "ElementSpacing", 3)) * mm if "ElementSpacing" in keys else None
    if spacing is None or not (spacing > 0).all():
        raise Refusal("no_spacing", "ElementSpacing")
    if "TransformMatrix" not in keys or "Offset" not in keys:
        if no_space != "pixdim":
            raise Refusal("no_space", "MetaImage without TransformMatrix and Offset")
        return np.diag([*spacing, 1.0])
    directions = np.array(_numbers(keys, "TransformMatrix", 9)).reshape(3, 3).T
    if not np.allclose(np.linalg.norm(directions, axis=0), 1.0, atol=1e-3):
        raise Refusal("bad_affine", "directions whose length is not 1")
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = np.array(_numbers(keys, "Offset", 3)) * mm
    affine = LPS_TO_RAS @ affine
    said, codes = keys.get("AnatomicalOrientation", ""), axis_codes(affine)
    # ITK's letters give the origin of an axis, older files' its direction
    if sorted(said.translate(str.maketrans("RPI", "LAS"))) == ["A", "L", "S"] and said not in (codes, codes.translate(_OPPOSITE)):
        raise Refusal("bad_affine", "AnatomicalOrientation contradicts TransformMatrix")
    return affine


def _numbers(keys: dict[str, str], name: str, count: int | None = None, *, whole: bool = False) -> list[float]:
    """The numbers of a key.

    Raises:
        Refusal: they are not numbers, or of another count.
    """
    words = keys.get(name, "").split()
    try:
        numbers = [float(int(word)) if whole else float(word) for word in words[:16]]
    except (ValueError, OverflowError):
        raise Refusal("corrupt", f"{name} holds no numbers") from None
    if len(words) > 16 or not numbers or (count is not None and len(numbers) != count) or not np.isfinite(numbers).all():
        raise Refusal("corrupt", f"{name} holds {len(words)} numbers")
    return numbers


def _flag(keys: dict[str, str], name: str, default: bool) -> bool:
    """A key that is true or false (`True`, `1` or the first letter)."""
    return keys[name][:1].lower() in ("t", "1", "y") if keys.get(name) else default
