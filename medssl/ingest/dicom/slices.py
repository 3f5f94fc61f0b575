"""The image planes of one file: where each lies, how its values are read, and what kind of image it is."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from medssl.ingest.dicom.attributes import stated
from medssl.ingest.dicom.frames import Frame
from medssl.ingest.dicom.header import Header
from medssl.ingest.dicom.pixels import check_pixels
from medssl.ingest.refusal import Refusal

SAME_PLACE_VOX = 0.015
"""Positions within this share of a pixel count as one place."""


@dataclass(eq=False, slots=True)
class Slice:
    """One image plane: frame `frame` (tile `tile` of a mosaic) of file `file`. Lengths in millimetres, LPS."""

    file: int
    frame: int
    tile: int
    header: Header
    slope: float
    intercept: float
    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray
    rows: int
    columns: int
    source: Frame
    attributes: dict[str, Hashable]
    """Its stated attributes, by the names of the table in `attributes`."""

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector, LPS."""
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def pixel_mm(self) -> float:
        """The smaller side of a pixel."""
        return float(self.spacing.min())

    @property
    def same_place_mm(self) -> float:
        """Positions closer than this count as one place."""
        return SAME_PLACE_VOX * self.pixel_mm


def slices_of_file(number: int, header: Header) -> list[Slice]:
    """The planes of file `number`.

    Raises:
        Refusal: the pixels are not scalars, or a plane has no usable place, spacing or rescale.
    """
    check_pixels(header.layout)
    if header.tiles:
        return _mosaic_slices(number, header)
    frames = header.per_frame or [header.frame] * header.layout.frames
    if header.layout.frames > 1 and not header.per_frame:
        raise Refusal("unsupported_frames", f"{header.layout.frames} frames, and nothing that gives each a position")
    return [_slice(number, index, -1, header, frame) for index, frame in enumerate(frames)]


def _slice(number: int, index: int, tile: int, header: Header, frame: Frame) -> Slice:
    spacing = _vector(frame.spacing, "no_spacing")
    if (spacing <= 0).any() or (spacing > 100).any():
        raise Refusal("no_spacing", f"{spacing[0]:g} and {spacing[1]:g} mm")
    orientation = _orientation(frame.orientation)
    position = _vector(frame.position, "no_position")
    if np.abs(position).max() > 1e5:
        raise Refusal("no_position", f"{np.abs(position).max():g} mm away")
    slope, intercept = _rescale(header, frame)
    return Slice(
        file=number,
        frame=index,
        tile=tile,
        header=header,
        slope=slope,
        intercept=intercept,
        position=position,
        orientation=orientation,
        spacing=spacing,
        rows=header.layout.rows,
        columns=header.layout.columns,
        source=frame,
        attributes=stated(header, frame),
    )


def _mosaic_slices(number: int, header: Header) -> list[Slice]:
    """The tiles of a Siemens mosaic: the position of the header is that of the whole sheet, laid around the first slice.

    Source: nibabel's notes on the mosaic geometry (dicom_mosaic), and the CSA slice normal for the direction.
    """
    side = math.ceil(math.sqrt(header.tiles))
    rows, columns = header.layout.rows // side, header.layout.columns // side
    whole = _slice(number, 0, 0, header, header.frame)
    rows_run, columns_run = whole.orientation[:3], whole.orientation[3:]
    normal = np.cross(rows_run, columns_run)
    if header.tile_normal is not None:
        declared = np.array(header.tile_normal)
        if abs(abs(declared @ normal) - 1) > 1e-2:
            raise Refusal("no_orientation", "the mosaic's slice normal is not normal to its slices")
        normal = normal * np.sign(declared @ normal)
    if header.slice_gap is None or not header.slice_gap > 0:
        raise Refusal("no_spacing", "a mosaic without a distance between slices")
    corner = (
        whole.position
        + rows_run * whole.spacing[1] * (header.layout.columns - columns) / 2
        + columns_run * whole.spacing[0] * (header.layout.rows - rows) / 2
    )
    tiles = []
    for tile in range(header.tiles):
        piece = _slice(number, 0, tile, header, header.frame)
        piece.position = corner + normal * header.slice_gap * tile
        piece.rows, piece.columns = rows, columns
        tiles.append(piece)
    return tiles


def _vector(values: list[float] | None, code: str) -> np.ndarray:
    if values is None:
        raise Refusal(code)
    if not all(math.isfinite(v) for v in values):
        raise Refusal(code, "not a number")
    return np.array(values)


def _orientation(values: list[float] | None) -> np.ndarray:
    orientation = _vector(values, "no_orientation")
    rows_run, columns_run = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(rows_run), np.linalg.norm(columns_run)
    if abs(lengths[0] - 1) > 1e-2 or abs(lengths[1] - 1) > 1e-2 or abs(rows_run @ columns_run) > 1e-2:
        raise Refusal("no_orientation", "the directions are not two unit vectors at a right angle")
    return np.concatenate([rows_run / lengths[0], columns_run / lengths[1]])


def _rescale(header: Header, frame: Frame) -> tuple[float, float]:
    if header.modality_lut:
        raise Refusal("modality_lut")
    if header.modality in ("CT", "PT") and (frame.slope is None or frame.intercept is None):
        # both are required for CT (PS3.3 C.8.2.1) and PET (C.8.9.4), whose slices have a slope each
        raise Refusal("no_rescale")
    if (frame.slope is None) != (frame.intercept is None):
        raise Refusal("bad_rescale", "one of slope and intercept is there without the other")
    if header.modality == "CT" and frame.unit not in ("", "HU"):
        raise Refusal("not_hounsfield")
    slope = 1.0 if frame.slope is None else frame.slope
    intercept = 0.0 if frame.intercept is None else frame.intercept
    if math.isnan(slope) or math.isnan(intercept):
        raise Refusal("bad_rescale", "a tag of the rescale is there and holds no single number")
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope <= 0:
        raise Refusal("bad_rescale", f"slope {slope:g}, intercept {intercept:g}")
    if header.modality == "CT" and not header.layout.signed and intercept >= 0:
        raise Refusal("implausible_hu", f"unsigned pixels and an intercept of {intercept:g} leave no value for air")
    return slope, intercept
