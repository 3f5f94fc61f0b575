"""From the slices of a stack to one array on disk: decoded, rescaled, reoriented to RAS+, straightened if requested."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl.ingest.array_file import ArrayFile
from medssl.ingest.dicom.elements import Parsed
from medssl.ingest.dicom.pixel_layout import PixelLayout
from medssl.ingest.dicom.pixels import frame_pixels, is_lossy
from medssl.ingest.dicom.stacks import Stack
from medssl.ingest.hounsfield_scale import AIR_HU, HIGHEST_HU
from medssl.ingest.refusal import Refusal
from medssl.ingest.storing import Storage, storage_for
from medssl.volume.geometry import axis_codes, closest_canonical, reoriented_affine, slice_affine, spacing_mm
from medssl.volume.resample import StraightGrid, straight_grid, straightened_plane

SAMPLE_STRIDE = 8

Open = Callable[[int], tuple[Parsed, PixelLayout]]
"""Opens file number n of the stack and gives its parsed framing and header."""


@dataclass(frozen=True)
class StackPlan:
    """A stack as sent to the reading process: numbers only."""

    slices: list[tuple[int, int, int]]
    """(file, frame, tile) in order along the normal."""
    rescales: list[tuple[float, float]]
    shape: tuple[int, int, int]
    """Of the source stack: columns, rows, slices."""
    positions: list[list[float]]
    orientation: list[float]
    spacing: list[float]
    step: list[float]
    modality: str
    straighten: bool

    @classmethod
    def of(cls, stack: Stack, numbers: dict[int, int]) -> StackPlan:
        """The plan of a stack whose file `n` is number `numbers[n]` of the request."""
        first = stack.slices[0]
        return cls(
            slices=[(numbers[s.file], s.frame, s.tile) for s in stack.slices],
            rescales=[(s.slope, s.intercept) for s in stack.slices],
            shape=(first.columns, first.rows, len(stack.slices)),
            positions=stack.positions.tolist(),
            orientation=np.mean([s.orientation for s in stack.slices], axis=0).tolist(),
            spacing=first.spacing.tolist(),
            step=stack.step.tolist(),
            modality=first.header.modality,
            straighten=stack.straighten,
        )

    @property
    def source_affine(self) -> np.ndarray:
        """4×4 to RAS+ mm of the source stack."""
        return slice_affine(np.array(self.positions[0]), np.array(self.orientation), np.array(self.spacing), np.array(self.step))


@dataclass(frozen=True)
class Built:
    """The result of a plan, besides the array on disk."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    affine_before: np.ndarray
    """Of the (straightened) stack before it was reoriented to RAS+."""
    storage: Storage
    source_shape: tuple[int, int, int]
    source_affine: np.ndarray
    source_codes: str
    padded: int
    """Voxels below air that the source marked as padding, set to air."""
    lossy: bool
    sample: np.ndarray
    """Every eighth voxel of a slice in value units, source order `(i, j, k)`, for the checks of CT; else empty."""
    highest: float | None
    """The maximum of all voxels in value units, of a CT."""
    sha256: str
    """Of the file of the array."""

    def describe(self) -> dict[str, Any]:
        """The values for `volume.json` and the ledger."""
        return {
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "spacing_mm": spacing_mm(self.affine).tolist(),
            "dtype": self.storage.dtype,
            "slope": self.storage.slope,
            "intercept": self.storage.intercept,
            "source_shape": list(self.source_shape),
            "source_affine": self.source_affine.tolist(),
            "source_codes": self.source_codes,
            "padded_voxels": self.padded,
        }


def build(plan: StackPlan, open_file: Open, target: Path, threads: int) -> Built:
    """Decode a stack into `target` (`.npy`, Fortran order, RAS+).

    Raises:
        Refusal: a frame cannot be decoded.
    """
    cached: dict[int, tuple[Parsed, PixelLayout]] = {}
    counts = np.bincount([file for file, _, _ in plan.slices])

    def source(number: int) -> tuple[Parsed, PixelLayout]:
        if counts[number] == 1:
            return open_file(number)
        if number not in cached:
            cached[number] = open_file(number)
        return cached[number]

    def raw(k: int) -> tuple[np.ndarray, PixelLayout]:
        file, frame, tile = plan.slices[k]
        try:
            parsed, layout = source(file)
            pixels = frame_pixels(parsed, layout, frame)
        except Refusal as refusal:
            where = f"slice {k + 1} of {len(plan.slices)}" + (f", {refusal.detail}" if refusal.detail else "")
            raise Refusal(refusal.code, where) from None
        return (pixels if tile < 0 else _tile(pixels, tile, plan.shape[0], plan.shape[1])), layout

    first, layout = raw(0)
    if first.shape != plan.shape[:2]:
        raise Refusal("changed")
    bits = layout.bits_stored
    span = (-(1 << bits - 1), (1 << bits - 1) - 1) if layout.signed else (0, (1 << bits) - 1)
    storage = storage_for(span, set(plan.rescales), resampled=plan.straighten)
    lossy = is_lossy(*source(plan.slices[0][0]))
    replaced = plan.modality == "CT" and layout.padding is not None and not storage.apply_rescale
    if plan.straighten or replaced or (storage.dtype != "int16" and first.dtype.itemsize <= 2):
        built = _build_from_memory(plan, raw, first.dtype, storage, target, threads)
    else:
        built = _build_directly(plan, raw, storage, target, threads)
    return replace(built, lossy=lossy)


def _tile(sheet: np.ndarray, tile: int, columns: int, rows: int) -> np.ndarray:
    """Tile number `tile` of a mosaic, tiles in reading order."""
    i, j = tile % (sheet.shape[0] // columns) * columns, tile // (sheet.shape[0] // columns) * rows
    return sheet[i : i + columns, j : j + rows]


RawSlice = Callable[[int], tuple[np.ndarray, PixelLayout]]


def _build_directly(plan: StackPlan, raw: RawSlice, storage: Storage, target: Path, threads: int) -> Built:
    """Each slice goes from its file directly to its place in the mapped result."""
    affine = plan.source_affine
    turn = closest_canonical(affine)
    shape = tuple(plan.shape[axis] for axis in turn.axes)
    sample, padded, highest = _sample(plan), np.zeros(plan.shape[2], np.int64), np.zeros(plan.shape[2])

    def place(k: int) -> None:
        pixels, layout = raw(k)
        if pixels.shape != plan.shape[:2]:
            raise Refusal("changed")
        slope, intercept = plan.rescales[k]
        values = pixels
        if storage.apply_rescale:
            values, padded[k] = _values(pixels, layout, slope, intercept, storage.dtype, plan.modality)
        file.put(k, values)
        if sample.size:
            scale = (1.0, 0.0) if storage.apply_rescale else (slope, intercept)
            sample[:, :, k] = values[::SAMPLE_STRIDE, ::SAMPLE_STRIDE] * scale[0] + scale[1]
            highest[k] = float(values.max()) * scale[0] + scale[1]

    with ArrayFile(target, storage.dtype, shape, turn) as file:
        _each(place, file.order, threads)
    return _built(plan, storage, file, affine, affine, int(padded.sum()), sample, float(highest.max()))


def _build_from_memory(
    plan: StackPlan, raw: RawSlice, dtype: np.dtype[Any], declared: Storage, target: Path, threads: int
) -> Built:
    """All slices are decoded first, because the storage depends on their true range, or the result on several slices.

    `declared` is the storage for the range that the header declares.
    """
    rescales = set(plan.rescales)
    stored = np.empty(plan.shape, dtype, order="F")
    layouts: list[PixelLayout | None] = [None] * plan.shape[2]

    def gather(k: int) -> None:
        pixels, layouts[k] = raw(k)
        if pixels.shape != plan.shape[:2] or pixels.dtype != dtype:
            raise Refusal("changed")
        stored[:, :, k] = pixels

    _each(gather, range(plan.shape[2]), threads)
    low, high = int(stored.min()), int(stored.max())
    outside = [_padding(stored[:, :, k], layouts[k], *plan.rescales[k], plan.modality) for k in range(plan.shape[2])]
    if any(mask is not None for mask in outside):
        # padding that becomes air does not count for the range; air itself does
        inside = [stored[:, :, k] if m is None else stored[:, :, k][~m] for k, m in enumerate(outside)]
        air = [(AIR_HU - intercept) / slope for slope, intercept in rescales]
        low = min([int(v.min()) for v in inside if v.size] + [math.floor(v) for v in air])
        high = max([int(v.max()) for v in inside if v.size] + [math.ceil(v) for v in air])
    elif not plan.straighten and declared.dtype == "int16":
        return _build_directly(plan, raw, declared, target, threads)
    storage = storage_for((low, high), rescales, resampled=plan.straighten)
    sample, source_affine = _sample(plan), plan.source_affine
    padded, highest = 0, -math.inf

    def value_plane(k: int) -> np.ndarray:
        nonlocal padded
        layout = layouts[k]
        if layout is None:
            raise Refusal("changed")
        slope, intercept = plan.rescales[k]
        values, count = _values(stored[:, :, k], layout, slope, intercept, storage.dtype, plan.modality)
        padded += count
        return values

    def stored_plane(k: int) -> np.ndarray:
        """Source values before one slope and intercept; padding is the stored value nearest to air."""
        nonlocal padded
        mask = outside[k]
        if mask is None:
            return stored[:, :, k]
        padded += int(np.count_nonzero(mask))
        slope, intercept = plan.rescales[k]
        return np.where(mask, np.array(round((AIR_HU - intercept) / slope)).astype(dtype), stored[:, :, k])

    for k in range(plan.shape[2] if sample.size else 0):
        slope, intercept = plan.rescales[k]
        mask, thin = outside[k], (slice(None, None, SAMPLE_STRIDE),) * 2
        sample[:, :, k] = stored[(*thin, k)] * slope + intercept
        valid = stored[:, :, k]
        if mask is not None:
            sample[:, :, k][mask[thin]] = AIR_HU
            valid = valid[~mask]
        highest = max(highest, float(valid.max() if valid.size else low) * slope + intercept)
    if plan.straighten:
        grid, affine = _grid(plan)
        fill = AIR_HU if plan.modality == "CT" else min(slope * low + intercept for slope, intercept in plan.rescales)
        source_shape, planes = grid.shape, (lambda k: straightened_plane(grid, k, value_plane, fill))
    else:
        affine, source_shape = source_affine, plan.shape
        planes = value_plane if storage.apply_rescale else stored_plane
    turn = closest_canonical(affine)
    shape = tuple(source_shape[axis] for axis in turn.axes)
    with ArrayFile(target, storage.dtype, shape, turn) as file:
        for k in file.order:
            file.put(k, planes(k))
    return _built(plan, storage, file, affine, source_affine, padded, sample, highest)


def _built(
    plan: StackPlan,
    storage: Storage,
    file: ArrayFile,
    affine: np.ndarray,
    source_affine: np.ndarray,
    padded: int,
    sample: np.ndarray,
    highest: float,
) -> Built:
    turn, shape = closest_canonical(affine), file.shape
    before = tuple(shape[int(axis)] for axis in np.argsort(turn.axes))
    return Built(
        shape=shape,
        affine=reoriented_affine(affine, turn, before),  # type: ignore[arg-type]
        affine_before=affine,
        storage=storage,
        source_shape=plan.shape,
        source_affine=source_affine,
        source_codes=axis_codes(source_affine),
        padded=padded,
        lossy=False,
        sample=sample,
        highest=highest if sample.size else None,
        sha256=file.sha256(),
    )


def _grid(plan: StackPlan) -> tuple[StraightGrid, np.ndarray]:
    """The straight grid over a tilted or uneven stack and its affine to RAS+ mm."""
    orientation, spacing = np.array(plan.orientation), np.array(plan.spacing)
    rows_run = orientation[:3] / np.linalg.norm(orientation[:3])
    columns_run = orientation[3:] - (orientation[3:] @ rows_run) * rows_run
    columns_run /= np.linalg.norm(columns_run)
    grid = straight_grid(np.array(plan.positions), rows_run, columns_run, (spacing[1], spacing[0]), plan.shape[:2])
    normal = np.cross(rows_run, columns_run)
    return grid, slice_affine(grid.origin, np.concatenate([rows_run, columns_run]), spacing, normal * grid.step_mm)


def _values(
    pixels: np.ndarray, layout: PixelLayout, slope: float, intercept: float, dtype: str, modality: str
) -> tuple[np.ndarray, int]:
    """Pixels in value units as `dtype`, and the number of padding voxels below air that became air."""
    values: np.ndarray
    if dtype == "int16":
        # arithmetic modulo 2^16 is exact here, because every result is known to fit
        wide = pixels if pixels.dtype.itemsize == 2 else pixels.astype(np.int16)
        values = wide.view(np.int16) * np.int16(int(slope)) if slope != 1.0 else wide.view(np.int16)
        values = values + np.array(int(intercept)).astype(np.int16)
    elif dtype == "float32":
        values = (pixels * slope + intercept).astype(np.float32)
    else:
        raise ValueError(f"no such storage: {dtype}")
    outside = _padding(pixels, layout, slope, intercept, modality)
    if outside is None:
        return values, 0
    values[outside] = AIR_HU
    return values, int(np.count_nonzero(outside))


def _padding(pixels: np.ndarray, layout: PixelLayout | None, slope: float, intercept: float, modality: str) -> np.ndarray | None:
    """Mask of a CT's pixels that are padding outside the Hounsfield scale; None if there are none.

    Source: PS3.3 C.7.5.1.1.2, Pixel Padding Value and Pixel Padding Range Limit, which refer to stored values.
    """
    if modality != "CT" or layout is None or layout.padding is None:
        return None
    ends = [layout.padding, layout.padding if layout.padding_limit is None else layout.padding_limit]
    outside = pixels == ends[0] if ends[0] == ends[1] else (pixels >= min(ends)) & (pixels <= max(ends))
    lowest, highest = (AIR_HU - intercept) / slope, (HIGHEST_HU - intercept) / slope
    if min(ends) >= lowest and max(ends) <= highest:
        return None
    if max(ends) > lowest and min(ends) < highest and ends[0] != ends[1]:
        outside &= (pixels < lowest) | (pixels > highest)
    return outside if outside.any() else None


def _sample(plan: StackPlan) -> np.ndarray:
    columns, rows, slices = plan.shape
    if plan.modality != "CT":
        return np.empty((0, 0, 0), np.float32)
    return np.empty((-(-columns // SAMPLE_STRIDE), -(-rows // SAMPLE_STRIDE), slices), np.float32, order="F")


def _each(work: Callable[[int], None], numbers: range, threads: int) -> None:
    if threads == 1:
        for k in numbers:
            work(k)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, numbers):
            pass
