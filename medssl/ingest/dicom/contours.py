"""Contours of an RTSTRUCT as masks: polygons in the planes of an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.ingest.refusal import Refusal
from medssl.volume.geometry import LPS_TO_RAS

MAX_LABEL = 65535
OFF_PLANE_VOX = 0.2
"""How far a contour may lie from a plane of the image, in steps between planes: its numbers are rounded."""
SAME_OUTLINE_VOX = 0.05
AREAS, LINES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"), ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")


def contour_masks(dataset: Any, shape: tuple[int, int, int], affine: np.ndarray) -> dict[int, np.ndarray]:
    """The structures of an RTSTRUCT on an image's grid: number → bool `(i, j, k)`. Points and open lines enclose nothing.

    Contours of one structure and plane are combined by XOR, so that one inside another cuts a hole. This is the rule of
    CLOSEDPLANAR_XOR, and the custom for CLOSED_PLANAR, for which the standard asks for a keyhole. A contour that is stored twice
    counts once.

    Raises:
        Refusal: a contour does not lie in the image's planes, or its inside is not defined.

    Source: DICOM PS3.3 C.8.8.6.1 and C.8.8.6.3.
    """
    found: dict[int, np.ndarray] = {}
    for roi in dataset.get("ROIContourSequence", []):
        number = int(roi.get("ReferencedROINumber", 0))
        if not 1 <= number <= MAX_LABEL:
            raise Refusal("mask_values", f"structure number {number}")
        mask = np.zeros(shape, bool, order="F")
        for k, outlines in _outlines(roi, number, shape, affine).items():
            mask[:, :, k] = _area(outlines, number, k, (shape[0], shape[1]))
        if mask.any():
            found[number] = mask
    return found


def _outlines(roi: Any, number: int, shape: tuple[int, int, int], affine: np.ndarray) -> dict[int, list[tuple[str, np.ndarray]]]:
    """The closed contours of a structure by plane: (type, corners `(n, 2)` in voxels)."""
    to_voxel = np.linalg.inv(affine) @ LPS_TO_RAS
    step_mm = float(np.linalg.norm(affine[:3, 2]))
    found: dict[int, list[tuple[str, np.ndarray]]] = {}
    for contour in roi.get("ContourSequence", []):
        kind = str(contour.get("ContourGeometricType", "") or "")
        if kind in LINES:
            continue
        if kind not in AREAS:
            raise Refusal("corrupt", f"a contour of structure {number} whose geometric type is missing or not of the standard")
        try:
            points = np.array([float(v) for v in contour.ContourData]).reshape(-1, 3)
            declared = int(contour.get("NumberOfContourPoints", 0) or len(points))
        except (AttributeError, ValueError, TypeError):
            raise Refusal("corrupt", "a contour") from None
        if not len(points) or declared != len(points) or not np.isfinite(points).all():
            raise Refusal("corrupt", f"a contour of {len(points)} points that declares {declared}")
        voxels = points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        depth = float(voxels[:, 2].mean())
        k = round(depth)
        off = float(np.abs(voxels[:, 2] - k).max())
        if not -OFF_PLANE_VOX <= depth <= shape[2] - 1 + OFF_PLANE_VOX:
            beyond = -depth if depth < 0 else depth - (shape[2] - 1)
            raise Refusal("mask_mismatch", f"a contour lies {beyond * step_mm:.2f} mm beyond the image's end slice")
        if off > OFF_PLANE_VOX:
            limit = f"limit {OFF_PLANE_VOX * step_mm:.2f}, steps are {step_mm:.2f}"
            raise Refusal("mask_mismatch", f"a contour lies {off * step_mm:.2f} mm from its slice ({limit})")
        found.setdefault(k, []).append((kind, voxels[:, :2]))
    return found


def _area(outlines: list[tuple[str, np.ndarray]], number: int, k: int, shape: tuple[int, int]) -> np.ndarray:
    """The voxels of a plane that a structure's outlines enclose."""
    kept: list[tuple[str, np.ndarray]] = []
    for kind, corners in outlines:
        if not any(_same_outline(corners, other) for _, other in kept):
            kept.append((kind, corners))
        elif kind == "CLOSEDPLANAR_XOR":
            raise Refusal("mask_values", f"structure {number} has one contour twice in slice {k + 1}, which XOR would cancel")
    kinds = {kind for kind, _ in kept}
    if len(kinds) > 1:
        raise Refusal("mask_values", f"structure {number} mixes two types of contours in slice {k + 1}")
    areas = [inside_polygon(corners, shape) for _, corners in kept]
    if kinds == {"CLOSED_PLANAR"}:
        _refuse_crossing(areas, number, k)
    area = np.zeros(shape, bool)
    for one in areas:
        area ^= one
    return area


def _refuse_crossing(areas: list[np.ndarray], number: int, k: int) -> None:
    """Refuse two contours that overlap without one inside the other: the standard does not define their inside."""
    sizes = [int(area.sum()) for area in areas]
    for n, one in enumerate(areas):
        for m in range(n):
            both = int((one & areas[m]).sum())
            if 0 < both < min(sizes[n], sizes[m]):
                raise Refusal("mask_values", f"two contours of structure {number} cross in slice {k + 1}, over {both} voxels")


def _same_outline(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two polygons are the same, written from another corner, in reverse, or rounded."""
    ends = np.stack([one.min(0), one.max(0)]) - np.stack([other.min(0), other.max(0)])
    return bool(np.abs(ends).max() <= SAME_OUTLINE_VOX) and _lies_on(one, other) and _lies_on(other, one)


def _lies_on(corners: np.ndarray, polygon: np.ndarray) -> bool:
    """Whether every corner lies on the outline of a polygon, within tolerance."""
    start, run = polygon, np.roll(polygon, -1, axis=0) - polygon
    length = np.maximum((run**2).sum(axis=1), 1e-12)
    for corner in corners:
        along = (((corner - start) * run).sum(axis=1) / length).clip(0, 1)
        if np.linalg.norm(start + along[:, None] * run - corner, axis=1).min() > SAME_OUTLINE_VOX:
            return False
    return True


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
