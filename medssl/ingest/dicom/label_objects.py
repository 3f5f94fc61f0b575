"""DICOM label objects as masks on their image's grid: segmentations (SEG) and contours (RTSTRUCT)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from medssl.ingest.dicom.contours import MAX_LABEL, contour_masks
from medssl.ingest.dicom.elements import Buffer
from medssl.ingest.dicom.object_kinds import SEGMENTATION, STRUCTURE_SET
from medssl.ingest.refusal import Refusal
from medssl.volume.geometry import LPS_TO_RAS, SAME_CORNER_VOX, corner_distance_vox


def label_mask(data: Buffer, shape: tuple[int, int, int], affine: np.ndarray) -> tuple[np.ndarray, bool]:
    """(mask `(i, j, k)` uint16 on the source grid, whether labels overlap) of a SEG or RTSTRUCT file.

    A label is a segment's or a contour set's number. Where labels overlap, the smaller structure wins.

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
        structures = contour_masks(dataset, shape, affine)
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

    kind = str(dataset.get("SegmentationType", ""))
    if kind not in ("BINARY", "LABELMAP"):
        raise Refusal("mask_values", _other_kind(kind))
    try:
        segmentation = highdicom.seg.Segmentation.from_dataset(dataset, copy=False)
        numbers = [int(n) for n in segmentation.segment_numbers]
        regular = segmentation.get_volume_geometry(allow_missing_positions=True) is not None
    except MemoryError:
        raise
    except Exception:
        raise Refusal("corrupt", "a segmentation object that lacks what the standard asks for") from None
    if not regular:
        raise Refusal("mask_mismatch", "the frames of the segmentation form no regular volume")
    try:
        volumes = {
            n: segmentation.get_volume(
                segment_numbers=[n], combine_segments=True, relabel=True, allow_missing_positions=True, rescale_fractional=False
            )
            for n in numbers
        }
    except MemoryError:
        raise
    except Exception:
        raise Refusal("corrupt", "the frames of the segmentation cannot be read") from None
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


def _other_kind(kind: str) -> str:
    if kind == "FRACTIONAL":
        return "a FRACTIONAL segmentation holds shares or probabilities, no labels; export it as BINARY"
    return "a segmentation whose type is neither BINARY nor LABELMAP"


def place(mask: np.ndarray, mask_affine: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """A mask on a grid whose voxels coincide with the image's (permuted, flipped, cropped), as a bool array of the image.

    Raises:
        Refusal: `mask_mismatch`, with the distance in voxels.
    """
    to_image = np.linalg.inv(affine) @ mask_affine
    whole = np.round(to_image)
    turns = np.abs(whole[:3, :3])
    if not (turns.sum(axis=0) == 1).all() or not (turns.sum(axis=1) == 1).all():
        raise Refusal("mask_mismatch", "its voxels are not those of the image: another size or direction")
    distance_vox = corner_distance_vox(mask_affine, affine @ whole, mask.shape)
    if distance_vox > SAME_CORNER_VOX:
        raise Refusal(
            "mask_mismatch", f"a corner lies {distance_vox:.2f} voxels from a voxel of the image (limit {SAME_CORNER_VOX})"
        )
    index = np.argwhere(mask) @ whole[:3, :3].T.astype(int) + whole[:3, 3].astype(int)
    inside = ((index >= 0) & (index < np.array(shape))).all(axis=1)
    if not inside.all():
        raise Refusal("mask_mismatch", f"{int((~inside).sum())} voxels lie outside the image")
    out = np.zeros(shape, bool, order="F")
    out[tuple(index.T)] = True
    return out
