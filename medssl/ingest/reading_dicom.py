"""In the reading process: DICOM slices as volumes, label objects as masks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from medssl.core.files import sha256_file
from medssl.ingest.check import Series, run_checks
from medssl.ingest.dicom.assembly import StackPlan, build
from medssl.ingest.dicom.elements import Buffer, Parsed, Values, parse, text
from medssl.ingest.dicom.label_objects import label_mask
from medssl.ingest.dicom.pixel_layout import PixelLayout, read_pixel_layout
from medssl.ingest.dicom.pixels import frame_pixels
from medssl.ingest.dicom.tags import PIXELS_WANTED, SEQUENCES, TAGS, WANTED
from medssl.ingest.opening import open_listed
from medssl.ingest.refusal import Answer, Request
from medssl.ingest.storing import has_outliers
from medssl.volume.geometry import closest_canonical


def digest(request: Request, key: bytes) -> Answer:
    """Hash of the decoded pixels of one frame."""
    parsed, layout = open_dicom(request["file"])
    pixels = frame_pixels(parsed, layout, request["frame"])
    return {"digest": hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode() + pixels.tobytes("F")).hexdigest()}


def sample(request: Request, key: bytes) -> Answer:
    """A thinned-out frame of stored values, at most 64 pixels along each side."""
    parsed, layout = open_dicom(request["file"])
    pixels = frame_pixels(parsed, layout, request["frame"])
    return {"pixels": pixels[:: -(-pixels.shape[0] // 64), :: -(-pixels.shape[1] // 64)].tolist()}


def volume(request: Request, key: bytes) -> Answer:
    """Decode a stack of DICOM slices into an array file."""
    plan = StackPlan(
        **{
            **request["plan"],
            "rescales": [tuple(r) for r in request["plan"]["rescales"]],
            "shape": tuple(request["plan"]["shape"]),
        }
    )
    files = request["files"]
    target = Path(request["target"])
    built = build(plan, lambda number: open_dicom(files[number]), target, request["threads"])
    view = closest_canonical(built.affine_before).restore(np.load(target, mmap_mode="r"))
    middle = np.unique(np.linspace(0, view.shape[2] - 1, 7).round().astype(int)[1:-1])
    series = Series(plan.modality, built.sample, [np.asarray(view[:, :, k]) for k in middle], plan.rescales, built.highest)
    warnings = run_checks(series)
    if plan.modality != "CT" and view.dtype == np.float32 and has_outliers(np.load(target, mmap_mode="r")):
        warnings.append("outliers")
    return built.describe() | {"lossy": built.lossy, "warnings": warnings, "sha256": built.sha256}


def label(request: Request, key: bytes) -> Answer:
    """A DICOM label object (SEG, RTSTRUCT) as a mask on the grid of its image."""
    data = open_listed(request["file"])
    parse_whole(data)
    shape, affine = tuple(request["image_shape"]), np.array(request["image_affine"])
    mask, overlap = label_mask(data, shape, affine)
    labels = [int(v) for v in np.unique(mask)]
    if labels[-1] < 256:
        mask = mask.astype(np.uint8)
    result = closest_canonical(affine).apply(mask)
    target = Path(request["targets"][0])
    with open(target, "wb") as file:
        np.lib.format.write_array(file, np.asfortranarray(result), allow_pickle=False)
    return {"labels": labels, "overlap": overlap, "sha256": sha256_file(target), "shape": list(result.shape)}


def parse_whole(data: Buffer) -> Parsed:
    """The framing of a whole file with every allow-listed value.

    Raises:
        Refusal: the framing is damaged.
    """
    return parse(data, WANTED, SEQUENCES, inflated_limit=_declared_bytes)


def open_dicom(file: Request) -> tuple[Parsed, PixelLayout]:
    """A listed file for decoding: its framing and how its pixels are stored.

    Raises:
        Refusal: it changed, its framing is damaged, or it has no pixels.
    """
    parsed = parse(open_listed(file), PIXELS_WANTED, inflated_limit=_declared_bytes)
    return parsed, read_pixel_layout(parsed)


def _declared_bytes(values: Values) -> int:
    """Bytes of pixels that a header declares, as a limit for inflating."""
    rows, columns, bits, samples = (_uint16(values, name) for name in ("rows", "columns", "bits_allocated", "samples"))
    frames = text(values.get(TAGS["frames"], b"1"))
    return rows * columns * bits // 8 * max(samples, 1) * (int(frames) if frames.isdigit() else 1)


def _uint16(values: Values, name: str) -> int:
    value = values.get(TAGS[name], b"")
    return int.from_bytes(value[:2], "little") if isinstance(value, bytes) else 0
