"""NIfTI: the header through nibabel, and the position of the image."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from medssl.ingest.dicom.elements import Buffer
from medssl.ingest.packed import check_content, first_bytes
from medssl.ingest.refusal import Refusal
from medssl.volume.geometry import SAME_CORNER_VOX, corner_distance_vox, corners_mm, is_usable

_SINGLE = float(np.finfo(np.float32).eps)
NO_IMAGES = {
    **{1004: "matrices", 1005: "matrices", 1006: "a displacement field", 1007: "vectors", 1008: "points", 1009: "triangles"},
    **{1010: "quaternions", 2002: "numbers of nodes", 2003: "colours", 2004: "colours", 2005: "shapes"},
    **{2006: "a displacement field of FSL", 2016: "coefficients of FSL", 2017: "coefficients of FSL"},
    **dict.fromkeys((2007, 2008, 2009), "coefficients of FSL"),
}
"""Intent codes of files that are not images of a patient, whatever their shape: a fourth dimension holds components, not time.

Source: nifti1.h, NIFTI_INTENT codes; GIFTI's 2001 to 2005; FSL's NewNifti, 2006 to 2018.
"""
LABELS = 1002
"""The intent code of a label map."""
_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}


def read_nifti_header(data: Buffer, *, no_space: str = "refuse") -> dict[str, Any]:
    """Shape, affine (RAS+ mm), stored type, scaling and location of the data; no free-text fields.

    Raises:
        Refusal: the header or its affine cannot be trusted, or the file is too short for what it declares.
    """
    import nibabel

    packed = data[:2] == b"\x1f\x8b"
    head = first_bytes(data, 1024) if packed else bytes(data[:1024])
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
        intent = int(header["intent_code"])
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
    if intent in NO_IMAGES:
        raise Refusal("not_scalar", f"its intent code {intent} says {NO_IMAGES[intent]}")
    if len(shape) > 4:
        raise Refusal("many_dimensions", f"{shape}")
    num_bytes = dtype.itemsize
    for n in shape:
        num_bytes *= n
    if offset < kind.sizeof_hdr:
        raise Refusal("corrupt", f"the data would begin at byte {offset}")
    place = {"start": 0, "offset": offset, "bytes": offset + num_bytes, "packed": packed}
    check_content(data, place)
    if np.isnan(slope) and np.isfinite(intercept) and intercept != 0:
        raise Refusal("nonfinite", f"a scaling of slope NaN and intercept {intercept:g}")
    if np.isinf(slope) or (np.isfinite(slope) and slope != 0 and not np.isfinite(intercept)):
        raise Refusal("nonfinite", f"a scaling of slope {slope:g} and intercept {intercept:g}")
    scaled = np.isfinite(slope) and slope != 0
    affine = _affine(header, (shape[0], shape[1], shape[2]), units_mm, no_space)
    return {
        "shape": shape,
        "affine": affine.tolist(),
        "dtype": dtype.str,
        "slope": slope if scaled else 1.0,
        "intercept": intercept if scaled else 0.0,
        **place,
        **({"labels": True} if intent == LABELS else {}),
    }


def _affine(header: Any, shape: tuple[int, int, int], units_mm: float, no_space: str) -> np.ndarray:
    """The affine of the header in mm: the sform, else the qform. The unused one must agree or be invalid."""
    to_mm = np.diag([units_mm, units_mm, units_mm, 1.0])
    sform = to_mm @ np.array(header.get_sform(), float) if int(header["sform_code"]) > 0 else None
    qforms = [to_mm @ form for form in _qforms(header)] if int(header["qform_code"]) > 0 else []
    usable = [form for form in qforms if is_usable(form)]
    if sform is not None:
        if not is_usable(sform):
            raise Refusal("bad_affine", _why_unusable(sform))
        if usable:
            distance_vox, limit = min((corner_distance_vox(sform, form, shape), _limit(form, header, shape)) for form in usable)
            if distance_vox > limit:
                raise Refusal("affines_disagree", f"{distance_vox:.2f} voxels (limit {limit:.2g})")
        return sform
    if qforms:
        if not usable or float(header["pixdim"][0]) not in (-1.0, 0.0, 1.0):
            raise Refusal("bad_affine", "the quaternion is not one")
        return usable[0]
    if no_space != "pixdim":
        raise Refusal("no_space")
    affine = to_mm @ np.diag([*np.abs(np.array(header["pixdim"][1:4], float)), 1.0])
    if not is_usable(affine):
        raise Refusal("bad_affine", "no usable voxel sizes")
    return affine


def _qforms(header: Any) -> list[np.ndarray]:
    """The affines of the quaternion: not finite if it is not a rotation, for both hands if pixdim[0] does not choose one.

    Source: nifti1.h, method 2: qfac = pixdim[0] is −1 or 1, and 0 "which should not occur" counts as 1.
    """
    factor = float(header["pixdim"][0])
    found = []
    for hand in (factor,) if factor in (-1.0, 1.0) else (1.0, -1.0):
        one = header.copy()
        one["pixdim"][0] = hand
        try:
            found.append(np.array(one.get_qform(), float))
        except Exception:
            return [np.full((4, 4), np.nan)]
    return found


def _limit(qform: np.ndarray, header: Any, shape: tuple[int, int, int]) -> float:
    """How far a corner of the qform may be from that of the sform, in voxels: a share, and the rounding of the quaternion.

    The first number of a quaternion is not stored: a = √(1 − b² − c² − d²) loses all digits near a half turn.
    """
    first = np.sqrt(max(1.0 - sum(float(header[f"quatern_{n}"]) ** 2 for n in "bcd"), 0.0))
    angle = 2 * min(_SINGLE / max(first, 1e-9), float(np.sqrt(_SINGLE)))
    reach_mm = np.linalg.norm(corners_mm(qform, shape) - qform[:3, 3], axis=1).max()
    return min(SAME_CORNER_VOX + angle * reach_mm / np.linalg.norm(qform[:3, :3], axis=0).min(), 0.5)


def _why_unusable(affine: np.ndarray) -> str:
    if not np.isfinite(affine).all():
        return "it holds no numbers"
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return "voxel sizes of " + " × ".join(f"{size:.3g}" for size in sizes) + " mm"


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
