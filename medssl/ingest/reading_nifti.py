"""In the reading process: NIfTI, NRRD and MetaImage files as volumes, one for each time point, and as masks."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from medssl.core.files import sha256_file
from medssl.ingest.check import Series, run_checks
from medssl.ingest.dicom.elements import Buffer
from medssl.ingest.hounsfield_scale import AIR_HU, HIGHEST_HU, UNSIGNED_PADDING, why_not_offset
from medssl.ingest.metaimage import read_metaimage_header
from medssl.ingest.nifti import check_finite, read_nifti_header
from medssl.ingest.nrrd import read_nrrd_header
from medssl.ingest.opening import kind_of, open_listed
from medssl.ingest.packed import read_stored
from medssl.ingest.refusal import Answer, Refusal, Request
from medssl.ingest.storing import Storage, has_outliers, stored_exactly, without_outliers
from medssl.volume.geometry import (
    SAME_CORNER_VOX,
    axis_codes,
    closest_canonical,
    corner_distance_vox,
    reoriented_affine,
    shear_deg,
    spacing_mm,
)
from medssl.volume.resample import resample, straight_affine

SHEAR_DEG = 0.05


def nifti(request: Request, key: bytes) -> Answer:
    """Decode a file into array files, one per time point; a mask keeps its label values."""
    data = open_listed(request["file"])
    header = file_header(data, kind_of(data), request)
    content = open_listed(request["data"]) if request.get("data") else data
    shape, affine = tuple(header["shape"][:3]), np.array(header["affine"])
    values = read_stored(content, header).reshape(*shape, -1, order="F")
    check_finite(values)
    if request["mask"]:
        return _mask(values[..., 0], header, affine, request)
    _add_offset(values, header, request["offset_hu"])
    sheared = shear_deg(affine)
    straighten = sheared > SHEAR_DEG
    if straighten and request["tilt"] == "refuse":
        raise Refusal("tilted", f"{sheared:.2f} degrees between voxel axes")
    answers = []
    for point, target in enumerate(request["targets"]):
        answers.append(_point(values[..., point], header, affine, straighten, Path(target), request))
        answers[-1]["tilt_deg"] = sheared if straighten else 0.0
    return {"points": answers}


def _add_offset(values: np.ndarray, header: Answer, offset_hu: float) -> None:
    """Add an offset to the header's intercept; `values` `(i, j, k, time points)` are stored ones.

    Raises:
        Refusal: the values are Hounsfield units without it.
    """
    header["intercept"] += offset_hu
    if not offset_hu:
        return
    sample = values[::4, ::2].astype(np.float32) * np.float32(header["slope"]) + np.float32(header["intercept"])
    if reason := why_not_offset(sample, offset_hu):
        raise Refusal("implausible_hu", reason)


def file_header(data: Buffer, kind: str, request: Request) -> Answer:
    """The header of a file of a kind (`nifti`, `gzip`, `nrrd`, `metaimage`).

    Raises:
        Refusal: it is another kind of file, or its header cannot be trusted.
    """
    if kind == "nrrd":
        return read_nrrd_header(data, no_space=request["no_space"])
    if kind == "metaimage":
        return read_metaimage_header(data, no_space=request["no_space"])
    if kind == "gzip":
        try:
            head = zlib.decompressobj(31).decompress(bytes(data[:65536]), 400)
        except zlib.error:
            raise Refusal("archive", "a gzip file that is not a NIfTI") from None
        if len(head) < 348 and len(data) < 400:
            raise Refusal("truncated", "inside the NIfTI header")
        if _kind_of_packed(head) == "dicom":
            raise Refusal("archive", "a DICOM file that gzip packed")
        if head[257:262] == b"ustar" or _kind_of_packed(head) != "nifti":
            raise Refusal("archive", "a gzip file that is not a NIfTI")
    return read_nifti_header(data, no_space=request["no_space"])


def _kind_of_packed(head: bytes) -> str:
    """The kind of a gzip file's content, if it is known."""
    try:
        return kind_of(head)
    except Refusal:
        return ""


def _point(values: np.ndarray, header: Answer, affine: np.ndarray, straighten: bool, target: Path, request: Request) -> Answer:
    source_shape, source_affine = values.shape, affine
    values, padded = _without_padding(values, header) if request["modality"] == "CT" else (values, 0)
    storage, values = stored_exactly(values, header["slope"], header["intercept"], resampled=straighten)
    warnings = run_checks(_as_series(values, storage, request["modality"], request["named_as_mask"]))
    if storage.dtype == "float32":
        values, outliers = without_outliers(values) if straighten else (values, has_outliers(values))
        warnings += ["outliers"] if outliers else []
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
        "padded_voxels": padded,
        "warnings": warnings,
        "sha256": sha256_file(target),
    }


def _without_padding(values: np.ndarray, header: Answer) -> tuple[np.ndarray, int]:
    """Stored values of a CT in which padding without its sign is set to air, and the number of its voxels."""
    outside = values == UNSIGNED_PADDING
    count = int(np.count_nonzero(outside))
    if not count or UNSIGNED_PADDING * header["slope"] + header["intercept"] <= HIGHEST_HU:
        return values, 0
    air = (AIR_HU - header["intercept"]) / header["slope"]
    wide = values.astype(np.int32) if values.dtype.kind == "u" and values.dtype.itemsize == 2 else values.copy()
    wide[outside] = round(air)
    return wide, count


def _as_series(values: np.ndarray, storage: Storage, modality: str, named_as_mask: bool) -> Series:
    """A volume as input of the checks: a sample, the maximum of all, and a few planes."""
    middle = np.unique(np.linspace(0, values.shape[2] - 1, 7).round().astype(int)[1:-1])
    sample, highest = np.zeros((0, 0, values.shape[2]), np.float32), None
    if modality == "CT":
        sample = values[::4, ::2].astype(np.float32) * np.float32(storage.slope) + np.float32(storage.intercept)
        ends = values.min() * storage.slope, values.max() * storage.slope
        highest = float(max(ends) + storage.intercept)
    rescales = [(storage.slope, storage.intercept)] * values.shape[2]
    return Series(modality, sample, [values[:, :, k] for k in middle], rescales, highest, named_as_mask)


def _mask(values: np.ndarray, header: Answer, affine: np.ndarray, request: Request) -> Answer:
    """A mask on its image's grid: shape and corners are compared, values must be whole and few."""
    image_shape, image_affine = tuple(request["image_shape"]), np.array(request["image_affine"])
    values, affine = in_image_order(values, affine, image_shape, image_affine)
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


def in_image_order(
    values: np.ndarray, affine: np.ndarray, image_shape: tuple[int, ...], image_affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A mask reordered to its image's axes, with its affine, if it has the same voxels; otherwise unchanged."""
    turn = closest_canonical(np.linalg.solve(image_affine, affine))
    turned, placed = turn.apply(values), reoriented_affine(affine, turn, values.shape)
    same = turned.shape == tuple(image_shape)
    if same and corner_distance_vox(image_affine, placed, image_shape) <= SAME_CORNER_VOX:  # type: ignore[arg-type]
        return turned, placed
    return values, affine


def check_same_grid(shape: tuple[int, ...], affine: np.ndarray, image_shape: tuple[int, ...], image_affine: np.ndarray) -> None:
    """Require a mask to lie on its image's grid.

    Raises:
        Refusal: `mask_mismatch`, with both shapes or the distance of the worst corner.
    """

    if tuple(shape) != tuple(image_shape):
        raise Refusal("mask_mismatch", f"mask {list(shape)}, image {list(image_shape)} voxels")
    distance_vox = corner_distance_vox(image_affine, affine, image_shape)  # type: ignore[arg-type]
    if distance_vox > SAME_CORNER_VOX:
        raise Refusal("mask_mismatch", f"a corner lies {distance_vox:.2f} voxels from the image's (limit {SAME_CORNER_VOX})")


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
