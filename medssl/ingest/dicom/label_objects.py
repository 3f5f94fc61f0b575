"""DICOM label objects as masks on their image's grid: segmentations (SEG) and contours (RTSTRUCT)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from medssl.ingest.dicom.elements import Buffer
from medssl.ingest.dicom.object_kinds import SEGMENTATION, STRUCTURE_SET
from medssl.ingest.refusal import Refusal
from medssl.volume.geometry import LPS_TO_RAS, corners_mm

SAME_PLACE_MM = 0.1
MAX_LABEL = 65535


def label_mask(data: Buffer, shape: tuple[int, int, int], affine: np.ndarray) -> tuple[np.ndarray, bool]:
    """(mask `(i, j, k)` uint16 on the source grid, whether labels overlap) of a SEG or RTSTRUCT file.

    A label is a segment's or a contour set's number. Where labels overlap the smaller structure wins.

    Raises:
        Refusal: it does not lie on the image's grid, or cannot be read.
    """
    import pydicom

    try:
        dataset = pydicom.dcmread(io.BytesIO(bytes(data)))
        sop_class = str(dataset.SOPClassUID)
    except Exception:
        raise Refusal("corrupt", "a label object") from None
    if sop_class == SEGMENTATION:
        structures = _segments(dataset, shape, affine)
    elif sop_class == STRUCTURE_SET:
        structures = _contours(dataset, shape, affine)
    else:
        raise Refusal("unsupported_object")
    if not structures:
        raise Refusal("mask_values", "no structure with a voxel in this image")
    return paint(structures, shape)


def paint(structures: dict[int, np.ndarray], shape: tuple[int, int, int]) -> tuple[np.ndarray, bool]:
    """Structures (label → bool array) in one label image, larger ones first."""
    out = np.zeros(shape, np.uint16, order="F")
    overlap = False
    for label in sorted(structures, key=lambda n: (-int(structures[n].sum()), n)):
        overlap = overlap or bool(out[structures[label]].any())
        out[structures[label]] = label
    return out, overlap


# ---- SEG


def _segments(dataset: Any, shape: tuple[int, int, int], affine: np.ndarray) -> dict[int, np.ndarray]:
    import highdicom

    try:
        segmentation = highdicom.seg.Segmentation.from_dataset(dataset, copy=False)
        numbers = [int(n) for n in segmentation.segment_numbers]
        volumes = {
            n: segmentation.get_volume(
                segment_numbers=[n], combine_segments=True, relabel=True, allow_missing_positions=True, rescale_fractional=False
            )
            for n in numbers
        }
    except MemoryError:
        raise
    except Exception:
        raise Refusal("mask_mismatch", "the frames of the segmentation form no regular volume") from None
    found = {}
    for number, volume in volumes.items():
        if not 1 <= number <= MAX_LABEL:
            raise Refusal("mask_values", f"segment number {number}")
        # highdicom's axes are (slice, row, column)
        seg_affine = LPS_TO_RAS @ np.asarray(volume.affine)
        placed = place(np.asarray(volume.array) > 0, seg_affine, shape, affine)
        if placed.any():
            found[number] = placed
    return found


def place(mask: np.ndarray, mask_affine: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """A mask on a grid whose voxels coincide with the image's (turned, flipped, cropped), as a bool array of the image.

    Raises:
        Refusal: `mask_mismatch`, with the distance in mm.
    """
    to_image = np.linalg.inv(affine) @ mask_affine
    whole = np.round(to_image)
    turns = np.abs(whole[:3, :3])
    apart = np.linalg.norm(
        corners_mm(affine @ whole, mask.shape) - corners_mm(mask_affine, mask.shape),
        axis=1,
    ).max()
    if not (turns.sum(axis=0) == 1).all() or not (turns.sum(axis=1) == 1).all() or apart > SAME_PLACE_MM:
        raise Refusal("mask_mismatch", f"a corner lies {apart:.2f} mm from a voxel of the image (limit {SAME_PLACE_MM})")
    index = np.argwhere(mask) @ whole[:3, :3].T.astype(int) + whole[:3, 3].astype(int)
    inside = ((index >= 0) & (index < np.array(shape))).all(axis=1)
    if not inside.all():
        raise Refusal("mask_mismatch", f"{int((~inside).sum())} voxels lie outside the image")
    out = np.zeros(shape, bool, order="F")
    out[tuple(index.T)] = True
    return out


# ---- RTSTRUCT


def _contours(dataset: Any, shape: tuple[int, int, int], affine: np.ndarray) -> dict[int, np.ndarray]:
    to_voxel = np.linalg.inv(affine) @ LPS_TO_RAS
    step_mm = float(np.linalg.norm(affine[:3, 2]))
    found: dict[int, np.ndarray] = {}
    for roi in dataset.get("ROIContourSequence", []):
        number = int(roi.get("ReferencedROINumber", 0))
        if not 1 <= number <= MAX_LABEL:
            raise Refusal("mask_values", f"structure number {number}")
        mask = np.zeros(shape, bool, order="F")
        for contour in roi.get("ContourSequence", []):
            if contour.get("ContourGeometricType", "CLOSED_PLANAR") != "CLOSED_PLANAR":
                continue
            try:
                points = np.array([float(v) for v in contour.ContourData]).reshape(-1, 3)
            except (AttributeError, ValueError, TypeError):
                raise Refusal("corrupt", "a contour") from None
            voxels = points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
            k = int(np.round(voxels[:, 2].mean()))
            off_mm = float(np.abs(voxels[:, 2] - k).max()) * step_mm
            if off_mm > max(SAME_PLACE_MM, 0.01 * step_mm) or not 0 <= k < shape[2]:
                raise Refusal("mask_mismatch", f"a contour lies {off_mm:.2f} mm from its slice (limit {SAME_PLACE_MM})")
            # a contour inside another of the same structure cuts a hole
            mask[:, :, k] ^= inside_polygon(voxels[:, :2], (shape[0], shape[1]))
        if mask.any():
            found[number] = mask
    return found


def inside_polygon(corners: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which voxel centres `(i, j)` lie inside a closed polygon with corners `(n, 2)` in voxel units, by the even-odd rule."""
    out = np.zeros(shape, bool)
    start, end = corners, np.roll(corners, -1, axis=0)
    low = max(int(np.ceil(corners[:, 1].min())), 0)
    high = min(int(np.floor(corners[:, 1].max())), shape[1] - 1)
    columns = np.arange(shape[0])
    for j in range(low, high + 1):
        crosses = (start[:, 1] <= j) != (end[:, 1] <= j)
        if not crosses.any():
            continue
        a, b = start[crosses], end[crosses]
        at = np.sort(a[:, 0] + (j - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0]))
        out[:, j] = np.searchsorted(at, columns, side="right") % 2 == 1
    return out
