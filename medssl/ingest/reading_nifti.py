"""In the reading process: NIfTI files as volumes, one for each time point, and as masks."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from medssl.core.files import sha256_file
from medssl.ingest.dicom.elements import Buffer
from medssl.ingest.nifti import check_finite, read_nifti_data, read_nifti_header
from medssl.ingest.opening import kind_of, open_listed
from medssl.ingest.refusal import Answer, Refusal, Request
from medssl.ingest.storing import Storage, storage_for
from medssl.volume.geometry import axis_codes, closest_canonical, corner_distance_mm, reoriented_affine, shear_deg, spacing_mm
from medssl.volume.resample import resample, straight_affine

SHEAR_DEG = 0.05


def nifti(request: Request, key: bytes) -> Answer:
    """Decode a NIfTI file into array files, one per time point; a mask keeps its label values."""
    data = open_listed(request["file"])
    header = nifti_header(data, kind_of(data), request)
    shape, affine = tuple(header["shape"][:3]), np.array(header["affine"])
    values = read_nifti_data(data, header).reshape(*shape, -1, order="F")
    check_finite(values)
    if request["mask"]:
        return _nifti_mask(values[..., 0], header, affine, request)
    sheared = shear_deg(affine)
    straighten = sheared > SHEAR_DEG
    if straighten and request["tilt"] == "refuse":
        raise Refusal("tilted", f"{sheared:.2f} degrees between voxel axes")
    answers = []
    for point, target in enumerate(request["targets"]):
        answers.append(_nifti_point(values[..., point], header, affine, straighten, Path(target)))
        answers[-1]["tilt_deg"] = sheared if straighten else 0.0
    return {"points": answers}


def nifti_header(data: Buffer, kind: str, request: Request) -> Answer:
    """The header of a NIfTI file of a kind (`nifti`, `gzip`).

    Raises:
        Refusal: it is no NIfTI, or its header cannot be trusted.
    """
    if kind == "gzip":
        try:
            head = zlib.decompressobj(31).decompress(bytes(data[:65536]), 400)
        except zlib.error:
            raise Refusal("archive", "a gzip file that is no NIfTI") from None
        if len(head) < 348 and len(data) < 400:
            raise Refusal("truncated", "inside the NIfTI header")
        if head[257:262] == b"ustar" or _kind_of_packed(head) != "nifti":
            raise Refusal("archive", "a gzip file that is no NIfTI")
    return read_nifti_header(data, no_space=request["no_space"])


def _kind_of_packed(head: bytes) -> str:
    """What a gzip file holds, if it is anything known."""
    try:
        return kind_of(head)
    except Refusal:
        return ""


def _nifti_point(values: np.ndarray, header: Answer, affine: np.ndarray, straighten: bool, target: Path) -> Answer:
    source_shape, source_affine = values.shape, affine
    slope, intercept = header["slope"], header["intercept"]
    storage, values = _nifti_storage(values, slope, intercept, straighten)
    if straighten:
        grid_affine, grid_shape = straight_affine(affine, values.shape)
        values = resample(values, affine, grid_affine, grid_shape, fill=float(values.min()))
        affine = grid_affine
    turn = closest_canonical(affine)
    turned = reoriented_affine(affine, turn, values.shape)
    result = turn.apply(values)
    out = np.lib.format.open_memmap(target, "w+", np.dtype(storage.dtype), result.shape, fortran_order=True)
    out[...] = result
    return {
        "shape": list(out.shape),
        "affine": turned.tolist(),
        "spacing_mm": spacing_mm(turned).tolist(),
        "dtype": storage.dtype,
        "slope": storage.slope,
        "intercept": storage.intercept,
        "source_shape": list(source_shape),
        "source_affine": source_affine.tolist(),
        "source_codes": axis_codes(source_affine),
        "padded_voxels": 0,
        "sha256": sha256_file(target),
    }


def _nifti_storage(values: np.ndarray, slope: float, intercept: float, resampled: bool) -> tuple[Storage, np.ndarray]:
    """The exact storage of stored values, and the values in it (before any turning)."""
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if values.dtype.itemsize > 2 and max(abs(low), abs(high)) > 1 << 24:
            raise Refusal("unsupported_pixels", f"integers up to {max(abs(low), abs(high))}, more than float32 holds")
        storage = storage_for((low, high), {(slope, intercept)}, resampled=resampled)
        if storage.dtype == "int16" and storage.apply_rescale:
            return storage, (values.astype(np.int64) * int(slope) + int(intercept)).astype(np.int16)
        if storage.dtype == "int16":
            return storage, values.astype(np.int16)
        return storage, (values * slope + intercept).astype(np.float32)
    scaled = values * slope + intercept if (slope, intercept) != (1.0, 0.0) else values
    with np.errstate(over="ignore"):
        single = scaled.astype(np.float32)
    if not np.isfinite(single).all():
        raise Refusal("nonfinite", "values beyond the range of float32")
    if not resampled and single.min() >= -32768 and single.max() <= 32767 and (single == np.rint(single)).all():
        return Storage("int16", 1.0, 0.0, True), single.astype(np.int16)
    return Storage("float32", 1.0, 0.0, True), single


def _nifti_mask(values: np.ndarray, header: Answer, affine: np.ndarray, request: Request) -> Answer:
    """A mask on its image's grid: shape and corners are compared, values must be whole and few."""
    image_shape, image_affine = tuple(request["image_shape"]), np.array(request["image_affine"])
    check_same_grid(values.shape, affine, image_shape, image_affine)
    if header["slope"] != 1.0 or header["intercept"] != 0.0:
        values = values * header["slope"] + header["intercept"]
    labels = check_labels(values)
    grid = values.astype(np.uint8 if labels[-1] < 256 else np.uint16)
    if request["straighten"]:
        grid = resample(grid, affine, *straight_affine(affine, grid.shape), order=0)
        affine = straight_affine(affine, values.shape)[0]
    result = closest_canonical(affine).apply(grid)
    target = Path(request["targets"][0])
    with open(target, "wb") as file:
        np.lib.format.write_array(file, np.asfortranarray(result), allow_pickle=False)
    return {"labels": labels, "sha256": sha256_file(target), "shape": list(result.shape)}


def check_same_grid(
    shape: tuple[int, ...], affine: np.ndarray, image_shape: tuple[int, ...], image_affine: np.ndarray, limit_mm: float = 0.1
) -> None:
    """A mask must lie on its image's grid.

    Raises:
        Refusal: `mask_mismatch`, with both shapes or the distance of the worst corner.
    """

    if tuple(shape) != tuple(image_shape):
        raise Refusal("mask_mismatch", f"mask {list(shape)}, image {list(image_shape)} voxels")
    apart = corner_distance_mm(affine, image_affine, image_shape)  # type: ignore[arg-type]
    if apart > limit_mm:
        raise Refusal("mask_mismatch", f"a corner lies {apart:.2f} mm from the image's (limit {limit_mm})")


def check_labels(values: np.ndarray) -> list[int]:
    """The label values of a mask, sorted.

    Raises:
        Refusal: `mask_values`: fractions, negative numbers, or too many of them.
    """
    found = np.unique(values)
    if found[0] < 0 or found[-1] > 65535 or (found != np.rint(found)).any():
        raise Refusal("mask_values", f"values from {found[0]:g} to {found[-1]:g}")
    if len(found) > 1024:
        raise Refusal("mask_values", f"{len(found)} different values")
    return [int(v) for v in found]
