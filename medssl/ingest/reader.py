"""The process that touches hostile bytes: it reads requests line by line and answers with numbers and codes only.

It runs under limits of memory and time set by its parent (`readers.py`), and dies alone. Nothing is pickled on the way:
requests and answers are JSON, arrays go into files that the parent names.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.listing import minted
from medssl.ingest.assembly import Plan, build
from medssl.ingest.checks.drawn_text import drawn_text
from medssl.ingest.checks.hounsfield import hounsfield
from medssl.ingest.checks.rescale_joins import rescale_joins
from medssl.ingest.elements import Buffer, Parsed, parse, text
from medssl.ingest.finding import Series
from medssl.ingest.header import PIXELS_WANTED, SEQUENCES, WANTED, Layout, read_header, read_layout
from medssl.ingest.label_objects import label_mask
from medssl.ingest.nifti import check_finite, read_nifti_data, read_nifti_header
from medssl.ingest.opening import kind_of, open_bytes
from medssl.ingest.picture import npz_array, npz_sets, picture, picture_shape
from medssl.ingest.pixels import frame_pixels
from medssl.ingest.refusal import Refusal
from medssl.ingest.storing import Storage, storage_for
from medssl.volume.geometry import (
    axis_codes,
    closest_canonical,
    reoriented_affine,
    shear_deg,
    spacing_mm,
)
from medssl.volume.resample import resample, straight_affine

SHEAR_DEG = 0.05
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
Request = dict[str, Any]
Answer = dict[str, Any]


def main() -> None:
    """Answer requests until standard input ends. The first line holds the id key."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    # decoders written in C print to standard output and error; nothing they say may leave
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    if os.environ.get("MEDSSL_READER_DEBUG") is None:
        os.dup2(silent, 2)
    key = bytes.fromhex(json.loads(sys.stdin.readline())["key"])
    for line in sys.stdin:
        request = json.loads(line)
        for one in request["batch"]:
            # above what the process holds now, libraries of earlier tasks included
            limit = _address_space() + int(request["memory_mb"] * 1e6)
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            answers.write(json.dumps(answer(request["task"], one, key)) + "\n")


def answer(task: str, request: Request, key: bytes) -> Answer:
    """The answer to one request: what was asked for, or `code` and `sentence` of a refusal."""
    try:
        return TASKS[task](request, key)
    except Refusal as refusal:
        series = text(refusal.values.get(0x0020000E, b""))
        return _refused(refusal) | ({"series": minted(key, "s", series)} if series else {})
    except MemoryError:
        return _refused(Refusal("too_large"))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return {"errno": error.errno}
        if os.environ.get("MEDSSL_READER_DEBUG") is not None:
            raise
        # an unforeseen form of damage: the name of the exception is ours, its text may hold a value of the file
        return _refused(Refusal("corrupt", f"{type(error).__name__} while reading"))


def _refused(refusal: Refusal) -> Answer:
    return {"code": refusal.code, "sentence": refusal.sentence}


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


# ---- tasks


def scan(request: Request, key: bytes) -> Answer:
    """What a file is, and its header."""
    data = _open(request)
    kind = kind_of(data)
    if kind == "dicom":
        parsed = _parse(data)
        try:
            header = read_header(parsed, key)
        except Refusal as refusal:
            refusal.values = dict(parsed.values)
            raise
        return {"format": "dicom", "header": header.to_json()}
    if kind in ("nifti", "gzip"):
        return {"format": "nifti", "header": _nifti_header(data, kind, request)}
    if kind == "zip":
        return {"format": "npz", "header": {"sets": npz_sets(data)}}
    shape, dtype = picture_shape(data)
    return {"format": "png", "header": {"shape": shape, "dtype": dtype, "lossy": kind == "jpeg"}}


def _nifti_header(data: Buffer, kind: str, request: Request) -> Answer:
    if kind == "gzip":
        import zlib

        try:
            head = zlib.decompressobj(31).decompress(bytes(data[:65536]), 400)
        except zlib.error:
            raise Refusal("archive", "a gzip file that is no NIfTI") from None
        if len(head) < 348 and len(data) < 400:
            raise Refusal("truncated", "inside the NIfTI header")
        if head[257:262] == b"ustar" or kind_of_packed(head) != "nifti":
            raise Refusal("archive", "a gzip file that is no NIfTI")
    return read_nifti_header(data, no_space=request.get("no_space", "refuse"))


def kind_of_packed(head: bytes) -> str:
    """What a gzip file holds, if it is anything known."""
    try:
        return kind_of(head)
    except Refusal:
        return ""


def digest(request: Request, key: bytes) -> Answer:
    """Hash of the decoded pixels of one frame."""
    parsed, layout = _dicom(request["file"])
    pixels = frame_pixels(parsed, layout, request["frame"])
    return {"digest": hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode() + pixels.tobytes("F")).hexdigest()}


def volume(request: Request, key: bytes) -> Answer:
    """Decode a stack of DICOM slices into an array file."""
    plan = Plan(
        **{
            **request["plan"],
            "rescales": [tuple(r) for r in request["plan"]["rescales"]],
            "shape": tuple(request["plan"]["shape"]),
        }
    )
    files = request["files"]
    target = Path(request["target"])
    built = build(plan, lambda number: _dicom(files[number]), target, request["threads"])
    view = closest_canonical(built.affine_before).restore(np.load(target, mmap_mode="r"))
    middle = np.unique(np.linspace(0, view.shape[2] - 1, 7).round().astype(int)[1:-1])
    series = Series(plan.modality, built.sample, [np.asarray(view[:, :, k]) for k in middle], plan.rescales)
    warnings = []
    for check in (hounsfield, rescale_joins, drawn_text):
        finding = check(series)
        if finding is not None and finding.refuse:
            raise Refusal(finding.code, finding.detail)
        if finding is not None:
            warnings.append(check.__name__)
    return built.describe() | {"lossy": built.lossy, "warnings": warnings, "sha256": _sha256(target)}


def nifti(request: Request, key: bytes) -> Answer:
    """Decode a NIfTI file into array files, one per time point; a mask keeps its label values."""
    data = _open(request["file"])
    header = _nifti_header(data, kind_of(data), request)
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
        "sha256": _sha256(target),
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
    return {"labels": labels, "sha256": _sha256(target), "shape": list(result.shape)}


def label(request: Request, key: bytes) -> Answer:
    """A DICOM label object (SEG, RTSTRUCT) as a mask on the grid of its image."""
    data = _open(request["file"])
    _parse(data)
    shape, affine = tuple(request["image_shape"]), np.array(request["image_affine"])
    mask, overlap = label_mask(data, shape, affine)
    labels = [int(v) for v in np.unique(mask)]
    if labels[-1] < 256:
        mask = mask.astype(np.uint8)
    result = closest_canonical(affine).apply(mask)
    target = Path(request["targets"][0])
    with open(target, "wb") as file:
        np.lib.format.write_array(file, np.asfortranarray(result), allow_pickle=False)
    return {"labels": labels, "overlap": overlap, "sha256": _sha256(target), "shape": list(result.shape)}


def check_same_grid(
    shape: tuple[int, ...], affine: np.ndarray, image_shape: tuple[int, ...], image_affine: np.ndarray, limit_mm: float = 0.1
) -> None:
    """A mask must lie on its image's grid.

    Raises:
        Refusal: `mask_mismatch`, with both shapes or the distance of the worst corner.
    """
    from medssl.volume.geometry import corner_distance_mm

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


def pictures(request: Request, key: bytes) -> Answer:
    """Decode pictures of one shape into an array file `(i, j, n)`; damaged ones are refused one by one."""
    columns, rows = request["shape"]
    stack = np.empty((columns, rows, len(request["files"])), np.dtype(request["dtype"]), order="F")
    refused: list[Answer] = []
    kept: list[int] = []
    for number, file in enumerate(request["files"]):
        try:
            pixels = picture(_open(file))
            if pixels.shape != (columns, rows) or pixels.dtype != stack.dtype:
                raise Refusal("changed")
        except Refusal as refusal:
            refused.append({"number": number, **_refused(refusal)})
            continue
        stack[:, :, len(kept)] = pixels
        kept.append(number)
    return {"kept": kept, "refused": refused, **_write_images(stack[:, :, : len(kept)], Path(request["target"]))}


def npz(request: Request, key: bytes) -> Answer:
    """Write the image arrays of an NPZ that have one shape into an array file `(i, j, n)`; labels as numbers."""
    data = _open(request["file"])
    sets = [s for s in npz_sets(data) if s["name"] in request["names"]]
    arrays = [npz_array(data, s["name"]).reshape(s["shape"]).transpose(2, 1, 0) for s in sets]
    labels = [npz_array(data, s["labels"]).reshape(-1).tolist() if s["labels"] else [None] * s["shape"][0] for s in sets]
    written = _write_images(np.concatenate(arrays, axis=2), Path(request["target"]))
    return {"labels": labels, "splits": [s["split"] for s in sets], **written}


def _write_images(stack: np.ndarray, target: Path) -> Answer:
    """Images as uint8 or int16 where they fit, otherwise float32."""
    if stack.dtype != np.uint8:
        fits = stack.size == 0 or (stack.min() >= -32768 and stack.max() <= 32767)
        stack = stack.astype(np.int16 if fits else np.float32)
    with open(target, "wb") as file:
        np.lib.format.write_array(file, np.asfortranarray(stack), allow_pickle=False)
    return {"dtype": str(stack.dtype), "sha256": _sha256(target)}


TASKS: dict[str, Callable[[Request, bytes], Answer]] = {
    "scan": scan,
    "digest": digest,
    "volume": volume,
    "nifti": nifti,
    "label": label,
    "pictures": pictures,
    "npz": npz,
}


# ---- files


def _open(file: Request) -> Buffer:
    """The bytes of a listed file, if it is still the one that was listed."""
    data = open_bytes(file["path"])
    if len(data) != file["size"]:
        raise Refusal("changed", f"{len(data)} bytes, {file['size']} listed")
    return data


def _parse(data: Buffer) -> Parsed:
    return parse(data, WANTED, SEQUENCES, inflated_limit=_declared_bytes)


def _declared_bytes(values: dict[int, Any]) -> int:
    """Bytes of pixels that a header declares, for the cap on what it may inflate to."""
    sizes = [int.from_bytes(values.get(tag, b"\0\0")[:2], "little") for tag in (0x00280010, 0x00280011, 0x00280100, 0x00280002)]
    frames = text(values.get(0x00280008, b"1"))
    return sizes[0] * sizes[1] * sizes[2] // 8 * max(sizes[3], 1) * (int(frames) if frames.isdigit() else 1)


def _dicom(file: Request) -> tuple[Parsed, Layout]:
    parsed = parse(_open(file), PIXELS_WANTED, inflated_limit=_declared_bytes)
    return parsed, read_layout(parsed)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
