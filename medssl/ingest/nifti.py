"""NIfTI: the header through nibabel, the data through a bounded buffer with its checksum and length verified."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from medssl.ingest.dicom.elements import Buffer
from medssl.ingest.refusal import Refusal
from medssl.volume.geometry import corner_distance_mm, is_usable

SAME_CORNER_MM = 0.1
BOMB_BYTES, BOMB_RATIO = 256 << 20, 200
_CHUNK = 1 << 20
_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}


def read_nifti_header(data: Buffer, *, no_space: str = "refuse") -> dict[str, Any]:
    """Shape, affine (RAS+ mm), stored type, scaling and where the data are; nothing of the free-text fields.

    Raises:
        Refusal: the header or its affine cannot be trusted, or the file is too short for what it declares.
    """
    import nibabel

    packed = data[:2] == b"\x1f\x8b"
    head = _first_bytes(data, 1024) if packed else bytes(data[:1024])
    single = head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"
    if not single:
        raise Refusal("not_an_image", "a NIfTI header without its data, or an Analyze file")
    kind = nibabel.Nifti2Header if head[4:7] == b"n+2" else nibabel.Nifti1Header
    if len(head) < kind.sizeof_hdr:
        raise Refusal("truncated", "inside the NIfTI header")
    try:
        header = kind.from_fileobj(io.BytesIO(head[: kind.sizeof_hdr] + b"\0" * 4), check=False)
        dimensions = [int(n) for n in header["dim"]]
        dtype = header.get_data_dtype()
        offset = int(header["vox_offset"])
        slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
        units_mm = _UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    except Exception:
        raise Refusal("corrupt", "the NIfTI header") from None
    rank = dimensions[0]
    if not 1 <= rank <= 7 or any(n < 1 for n in dimensions[1 : rank + 1]):
        raise Refusal("corrupt", f"dimensions {dimensions[: max(rank, 0) + 1][:8]}")
    shape = [*dimensions[1 : rank + 1], 1, 1, 1][: max(rank, 3)]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise Refusal("not_scalar", f"stored as {dtype.kind}{dtype.itemsize}")
    if len(shape) > 4:
        raise Refusal("many_dimensions", f"{shape}")
    num_bytes = dtype.itemsize
    for n in shape:
        num_bytes *= n
    if offset < kind.sizeof_hdr:
        raise Refusal("corrupt", f"the data would begin at byte {offset}")
    total = offset + num_bytes
    if packed and total > (len(data) + 1) * 1100:
        raise Refusal("truncated", f"{len(data)} packed bytes cannot hold {total}")
    if packed and total > BOMB_BYTES and total > len(data) * BOMB_RATIO:
        raise Refusal("bomb", f"{len(data)} bytes that declare {total}")
    if not packed and len(data) < total:
        raise Refusal("truncated", f"{len(data)} of {total} bytes")
    if not packed and len(data) > total + 16 and any(bytes(data[total : total + 4096])):
        raise Refusal("corrupt", f"{len(data)} bytes where the header declares {total}")
    if np.isnan(slope) and np.isfinite(intercept) and intercept != 0:
        raise Refusal("nonfinite", f"a scaling of slope NaN and intercept {intercept:g}")
    if np.isinf(slope) or (np.isfinite(slope) and slope != 0 and not np.isfinite(intercept)):
        raise Refusal("nonfinite", f"a scaling of slope {slope:g} and intercept {intercept:g}")
    scaled = np.isfinite(slope) and slope != 0
    affine = _affine(header, (shape[0], shape[1], shape[2]), no_space)
    affine[:3] *= units_mm
    return {
        "shape": shape,
        "affine": affine.tolist(),
        "dtype": dtype.str,
        "slope": slope if scaled else 1.0,
        "intercept": intercept if scaled else 0.0,
        "offset": offset,
        "bytes": total,
    }


def _affine(header: Any, shape: tuple[int, int, int], no_space: str) -> np.ndarray:
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    sform = qform = None
    try:
        if sform_code > 0:
            sform = np.array(header.get_sform(), float)
        if qform_code > 0:
            qform = np.array(header.get_qform(), float)
    except Exception:
        raise Refusal("bad_affine", "the quaternion is not one") from None
    for form in (sform, qform):
        if form is not None and not is_usable(form):
            raise Refusal("bad_affine")
    if sform is not None and qform is not None:
        apart = corner_distance_mm(sform, qform, shape)
        if apart > SAME_CORNER_MM:
            raise Refusal("affines_disagree", f"{apart:.2f} mm")
    chosen = sform if sform is not None else qform
    if chosen is not None:
        return chosen
    if no_space != "pixdim":
        raise Refusal("no_space")
    sizes = np.abs(np.array(header["pixdim"][1:4], float))
    affine = np.diag([*sizes, 1.0])
    if not is_usable(affine):
        raise Refusal("bad_affine", "no usable voxel sizes")
    return affine


def _first_bytes(data: Buffer, count: int) -> bytes:
    inflater = zlib.decompressobj(31)
    try:
        return inflater.decompress(bytes(data[:65536]), count)
    except zlib.error:
        raise Refusal("corrupt", "the gzip stream") from None


def read_nifti_data(data: Buffer, header: dict[str, Any]) -> np.ndarray:
    """Stored values in the file's axes, Fortran order, read-only; the whole file was verified.

    Raises:
        Refusal: `truncated`, `corrupt` (checksum, stray bytes) or `bomb`.
    """
    total = header["bytes"]
    if data[:2] == b"\x1f\x8b":
        content = bytearray(total)
        filled = 0
        for chunk in _inflated(data):
            if filled + len(chunk) > total:
                extra = filled + len(chunk) - total
                if extra > 65536 or any(chunk[len(chunk) - extra :]):
                    raise Refusal("bomb", f"more than the {total} bytes that the header declares")
                chunk = chunk[: len(chunk) - extra]
            content[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        if filled < total:
            raise Refusal("truncated", f"{filled} of {total} bytes")
        data = content  # type: ignore[assignment]
    count = 1
    for n in header["shape"]:
        count *= n
    stored = np.frombuffer(data, dtype=np.dtype(header["dtype"]), count=count, offset=header["offset"])
    return stored.reshape(header["shape"], order="F")


def _inflated(data: Buffer) -> Iterator[bytes]:
    """Chunks of a gzip file of one or more members; each member's checksum and length are verified at its end."""
    offset = 0
    while offset < len(data):
        if offset and not any(bytes(data[offset : offset + 4096])):
            return
        inflater = zlib.decompressobj(31)
        pending = b""
        while not inflater.eof:
            if not pending:
                pending = bytes(data[offset : offset + _CHUNK])
                offset += len(pending)
                if not pending:
                    raise Refusal("truncated", "the gzip stream has no end")
            try:
                chunk = inflater.decompress(pending, _CHUNK)
            except zlib.error:
                raise Refusal("corrupt", "the gzip stream or its checksum") from None
            pending = inflater.unconsumed_tail
            yield chunk
        offset -= len(inflater.unused_data)


def check_finite(values: np.ndarray) -> None:
    """Refuse NaN and infinity, with their count and the first index.

    Raises:
        Refusal: `nonfinite`.
    """
    if values.dtype.kind != "f":
        return
    bad = ~np.isfinite(values)
    count = int(bad.sum())
    if count:
        first = tuple(int(n) for n in np.unravel_index(int(np.argmax(bad.ravel(order="F"))), values.shape, order="F"))
        raise Refusal("nonfinite", f"{count} of {values.size}, the first at {first}")
