"""NRRD and MetaImage files of any array, written byte by byte: no library of the readers' has a hand in them."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SPACES = {
    "left-posterior-superior": LPS,
    "LPS": LPS,
    "right-anterior-superior": np.eye(4),
    "RAS": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "LAS": np.diag([-1.0, 1.0, 1.0, 1.0]),
}
NRRD_TYPES = {"i1": "int8", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "f4": "float", "f8": "double"}
MET_TYPES = {"i1": "MET_CHAR", "u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT", "f4": "MET_FLOAT"}
MET_TYPES |= {"f8": "MET_DOUBLE"}


def nrrd_fields(values: np.ndarray, affine: np.ndarray, *, space: str = "left-posterior-superior", mm: float = 1.0) -> dict:
    """The fields of an array `(i, j, k)` with an affine to RAS+ mm, little endian, raw."""
    here = SPACES[space] @ affine
    vector = lambda v: "(" + ",".join(repr(float(x) / mm) for x in v) + ")"  # noqa: E731
    fields = {
        "type": NRRD_TYPES[values.dtype.str[1:]],
        "dimension": "3",
        "space": space,
        "sizes": " ".join(map(str, values.shape)),
        "space directions": " ".join(vector(here[:3, n]) for n in range(3)),
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": vector(here[:3, 3]),
    }
    return fields | ({} if mm == 1.0 else {"space units": " ".join(['"um"' if mm == 1e-3 else '"m"'] * 3)})


def write_nrrd(path: Path, values: np.ndarray, fields: dict, *, data: Path | None = None, comment: str = "") -> None:
    """A `.nrrd`, or a `.nhdr` whose values are written to `data`; `fields` says how they are encoded."""
    raw = values.astype(values.dtype.newbyteorder(">" if fields.get("endian") == "big" else "<")).tobytes("F")
    raw = gzip.compress(raw, 6) if fields["encoding"] in ("gzip", "gz") else raw
    lines = ["NRRD0004", "# Complete NRRD file format specification at:", f"# {comment}"]
    lines += [f"{name}: {value}" for name, value in fields.items()] + ["Segment0_Name:=Doe^Jane"]
    path.parent.mkdir(parents=True, exist_ok=True)
    if data is None:
        path.write_bytes("\n".join(lines).encode() + b"\n\n" + raw)
    else:
        path.write_bytes("\n".join(lines).encode() + b"\n")
        data.write_bytes(raw)


def metaimage_keys(values: np.ndarray, affine: np.ndarray) -> dict:
    """The keys of an array `(i, j, k)` with an affine to RAS+ mm, in the order in which ITK writes them."""
    here = LPS @ affine
    spacing = np.linalg.norm(here[:3, :3], axis=0)
    numbers = lambda v: " ".join(repr(float(x)) for x in v)  # noqa: E731
    return {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": numbers((here[:3, :3] / spacing).T.ravel()),
        "Offset": numbers(here[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": numbers(spacing),
        "DimSize": " ".join(map(str, values.shape)),
        "Comment": "Doe^Jane",
        "ElementType": MET_TYPES[values.dtype.str[1:]],
    }


def write_metaimage(path: Path, values: np.ndarray, keys: dict, *, data: Path | None = None) -> None:
    """A `.mha`, or a `.mhd` whose values are written to `data`."""
    raw = values.astype(values.dtype.newbyteorder(">" if keys["BinaryDataByteOrderMSB"] == "True" else "<")).tobytes("F")
    raw = zlib.compress(raw) if keys["CompressedData"] == "True" else raw
    keys = {**keys, "ElementDataFile": keys.get("ElementDataFile", "LOCAL" if data is None else data.name)}
    head = "".join(f"{name} = {value}\n" for name, value in keys.items()).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if data is None:
        path.write_bytes(head + raw)
    else:
        path.write_bytes(head)
        data.write_bytes(raw)
