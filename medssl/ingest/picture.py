"""PNG and JPEG files and NPZ archives as grey images, with limits before anything is unpacked."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection
from typing import Any

import numpy as np

from medssl.ingest.dicom.elements import Buffer
from medssl.ingest.refusal import Refusal

MAX_PIXELS = 1 << 26
MAX_MEMBERS = 64
MAX_RATIO = 1100
MAX_LABEL = 1 << 53
"""Whole numbers below it are exact in double precision."""

SPLITS = ("train", "val", "test")
IMAGES_OF = {**{f"{split}_images": split for split in SPLITS}, "images": None, "imgs": None}
LABELS_OF = {**{f"{split}_images": f"{split}_labels" for split in SPLITS}, "images": "labels", "imgs": "labels"}


def picture_shape(data: Buffer) -> tuple[list[int], str]:
    """([columns, rows], dtype) of a PNG or JPEG, from its header.

    Raises:
        Refusal: it is damaged, too large, or certainly coloured by its mode.
    """
    image = _open(data)
    columns, rows = image.size
    return [columns, rows], "uint16" if image.mode.startswith("I") else "uint8"


def picture(data: Buffer) -> np.ndarray:
    """The grey values of a PNG or JPEG `(columns, rows)`, axes (i, j); uint8 or uint16.

    Raises:
        Refusal: `colour` if the channels differ, `corrupt` or `truncated`.
    """
    image = _open(data)
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise Refusal("truncated" if "truncated" in str(error) else "corrupt", "the picture does not decode") from None
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"):
        values = np.asarray(image.convert("RGBA"))
        if (values[..., 3] != 255).any():
            raise Refusal("colour", "transparent")
        if (values[..., 0] != values[..., 1]).any() or (values[..., 0] != values[..., 2]).any():
            raise Refusal("colour")
        return values[..., 0].T
    values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise Refusal("unsupported_pixels", "neither 8 nor 16 bit grey")
    return values.astype(np.uint8 if image.mode == "L" else np.uint16).T


def _open(data: Buffer) -> Any:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(bytes(data)), formats=("PNG", "JPEG"))
        columns, rows = image.size
    except Image.DecompressionBombError:
        raise Refusal("bomb") from None
    except Exception:
        raise Refusal("corrupt", "the picture's header") from None
    if columns < 1 or rows < 1 or columns * rows > MAX_PIXELS:
        raise Refusal("too_large", f"{columns}×{rows} pixels")
    if columns * rows > (len(data) + 64) * 2 * MAX_RATIO:
        raise Refusal("bomb", f"{len(data)} bytes that declare {columns}×{rows} pixels")
    return image


def npz_sets(data: Buffer) -> list[dict[str, Any]]:
    """The image arrays of an NPZ archive: name, shape (n, rows, columns), dtype, split; labels are checked for number.

    Raises:
        Refusal: `archive` (it is some other zip), `no_images`, `ambiguous_images`, `volume_set`, `bomb`, `labels_mismatch`,
            `labels_type` or `corrupt`.
    """
    archive = _archive(data)
    arrays = {info.filename[:-4]: _array_header(archive, info, len(data)) for info in archive.infolist()}
    _require_one_reading(arrays)
    found = []
    for name, split in IMAGES_OF.items():
        if name not in arrays:
            continue
        shape, dtype = arrays[name]
        if len(shape) == 4 and shape[3] == 1:
            shape = shape[:3]
        if len(shape) == 4 and shape[3] > 4:
            raise Refusal("volume_set", f"{shape[0]} of {shape[1]}×{shape[2]}×{shape[3]} voxels")
        if len(shape) != 3:
            raise Refusal("colour" if len(shape) == 4 and shape[3] in (3, 4) else "not_scalar", f"images of shape {list(shape)}")
        if min(shape) < 1:
            raise Refusal("no_images", f"shape {list(shape)}")
        if dtype.kind not in "iu" or dtype.itemsize > 2:
            raise Refusal("unsupported_pixels", f"images of type {dtype}")
        labels = LABELS_OF[name] if LABELS_OF[name] in arrays else None
        if labels is not None:
            given, kind = arrays[labels]
            if given[:1] != shape[:1]:
                raise Refusal("labels_mismatch", f"{shape[0]} images, labels of shape {list(given)}")
            if any(n != 1 for n in given[1:]):
                raise Refusal("labels_type", f"labels of shape {list(given)}")
            if kind.kind not in "iubf":
                raise Refusal("labels_type", f"labels of type {kind}")
        found.append({"name": name, "labels": labels, "split": split, "shape": list(shape), "dtype": dtype.str})
    if not found:
        raise Refusal("no_images", f"{len(arrays)} arrays")
    return found


def _require_one_reading(arrays: Collection[str]) -> None:
    """Require names of arrays that identify the images unambiguously.

    Raises:
        Refusal: `ambiguous_images`: all of them and their parts, or an unknown one that looks like images.
    """
    known = [name for name in IMAGES_OF if name in arrays]
    parts = [name for name in known if IMAGES_OF[name]]
    if len(known) > max(len(parts), 1):
        raise Refusal("ambiguous_images", f"{len(known)} arrays, of which {len(known) - len(parts)} may hold the others")
    strangers = [name for name in arrays if name not in IMAGES_OF and name.lower().endswith(("images", "imgs"))]
    if known and strangers:
        raise Refusal("ambiguous_images", f"{len(strangers)} beside those that are read")


def npz_labels(data: Buffer, name: str) -> list[int | bool]:
    """The labels of an archive, a whole number for each image; floating-point labels are accepted if all are whole.

    Raises:
        Refusal: `labels_type` if one is not; `truncated` or `corrupt`.
    """
    values = npz_array(data, name).reshape(-1)
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.rint(values)) & (np.abs(values) < MAX_LABEL)
        if not whole.all():
            raise Refusal("labels_type", f"{int((~whole).sum())} of {len(values)} of type {values.dtype} are not whole numbers")
        values = values.astype(np.int64)
    found: list[int | bool] = values.tolist()
    return found


def npz_array(data: Buffer, name: str) -> np.ndarray:
    """One array of the archive, its checksum verified by the zip reader.

    Raises:
        Refusal: `truncated` or `corrupt`.
    """
    archive = _archive(data)
    try:
        with archive.open(name + ".npy") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
            if file.read(1):
                raise Refusal("corrupt", "stray bytes after an array")
    except (zipfile.BadZipFile, ValueError, EOFError, OSError):
        raise Refusal("corrupt", "an array of the archive") from None
    return np.asarray(values)


def _archive(data: Buffer) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(io.BytesIO(bytes(data)) if isinstance(data, bytes) else data)  # type: ignore[arg-type]
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        raise Refusal("truncated" if bytes(data[:4]) == b"PK\x03\x04" else "archive", "a zip without its directory") from None
    infos = archive.infolist()
    if not infos or len(infos) > MAX_MEMBERS or any(not info.filename.endswith(".npy") for info in infos):
        raise Refusal("archive")
    return archive


def _array_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, total: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if info.file_size > (info.compress_size + 64) * MAX_RATIO or info.compress_size > total:
        raise Refusal("bomb", f"{info.compress_size} bytes that declare {info.file_size}")
    try:
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            size = dtype.itemsize
            for n in shape:
                size *= n
            if dtype.hasobject or file.tell() + size != info.file_size:
                raise Refusal("corrupt", f"an array of {info.file_size} bytes that declares {size}")
    except Refusal:
        raise
    except Exception:
        raise Refusal("corrupt", "an array of the archive") from None
    return tuple(int(n) for n in shape), dtype
