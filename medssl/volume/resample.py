"""Resampling: slices of a sheared or uneven stack onto a straight grid, volumes onto any grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medssl.core.shapes import Float, Float32, Num


@dataclass(frozen=True)
class StraightGrid:
    """A straight stack that covers a sheared or uneven one. Depths and offsets are in the slices' own frame."""

    shape: tuple[int, int, int]
    origin: Float[np.ndarray, "3"]
    """World mm of voxel (0, 0, 0), in the frame of the positions given."""
    step_mm: float
    shifts_vox: Float[np.ndarray, "n 2"]
    """The position of the grid's column (0, 0) in each source slice, in voxels of that slice."""
    depths_mm: Float[np.ndarray, "n"]
    """Of the source slices along the normal, from the first."""


def straight_grid(
    positions: Float[np.ndarray, "n 3"],
    rows_run: Float[np.ndarray, "3"],
    columns_run: Float[np.ndarray, "3"],
    spacing_ij: tuple[float, float],
    shape_ij: tuple[int, int],
) -> StraightGrid:
    """The straight grid over slices at `positions` (n, 3), ordered along the normal.

    In-plane axes and spacing stay; the step is the median distance along the normal (the distance itself when even); the
    grid is widened so that no voxel is lost.
    """
    normal = np.cross(rows_run, columns_run)
    relative = positions - positions[0]
    depths = relative @ normal
    if depths[-1] < 0:
        normal, depths = -normal, -depths
    shifts = np.stack([relative @ rows_run / spacing_ij[0], relative @ columns_run / spacing_ij[1]], axis=1)
    low, high = np.floor(shifts.min(axis=0) + 1e-6), np.ceil(shifts.max(axis=0) - 1e-6)
    step = float(np.median(np.diff(depths)))
    num_slices = int(np.floor(depths[-1] / step + 1e-3)) + 1
    shape = (int(shape_ij[0] + high[0] - low[0]), int(shape_ij[1] + high[1] - low[1]), num_slices)
    origin = positions[0] + rows_run * low[0] * spacing_ij[0] + columns_run * low[1] * spacing_ij[1]
    return StraightGrid(shape, origin, step, low - shifts, depths)


def straightened_plane(
    grid: StraightGrid, index: int, plane: Callable[[int], Num[np.ndarray, "_ _"]], fill: float
) -> Float32[np.ndarray, "i j"]:
    """Plane `index` of a straight grid, float32 `(i, j)`, linear between voxels; `fill` where there is no image.

    `plane(n)` gives source slice `n` as an array `(i, j)`.
    """
    depth = index * grid.step_mm
    upper = int(np.clip(np.searchsorted(grid.depths_mm, depth - 1e-9), 0, len(grid.depths_mm) - 1))
    if abs(grid.depths_mm[upper] - depth) <= 1e-3 * grid.step_mm or upper == 0:
        return shifted_plane(plane(upper), grid.shifts_vox[upper], grid.shape[:2], fill)
    lower = upper - 1
    weight = np.float32((depth - grid.depths_mm[lower]) / (grid.depths_mm[upper] - grid.depths_mm[lower]))
    below = shifted_plane(plane(lower), grid.shifts_vox[lower], grid.shape[:2], np.nan)
    above = shifted_plane(plane(upper), grid.shifts_vox[upper], grid.shape[:2], np.nan)
    mixed = below * (1 - weight) + above * weight
    return np.where(np.isnan(mixed), np.float32(fill), mixed)


def shifted_plane(
    plane: Num[np.ndarray, "_ _"], shift_vox: Float[np.ndarray, "2"], shape: tuple[int, ...], fill: float
) -> Float32[np.ndarray, "i j"]:
    """`out[i, j] = plane[i + shift_i, j + shift_j]`, linear, float32; `fill` where a neighbour is missing."""
    out: np.ndarray = plane.astype(np.float32)
    for axis in (0, 1):
        whole = int(np.floor(shift_vox[axis] + 1e-6))
        part = np.float32(max(shift_vox[axis] - whole, 0.0))
        first = _window(out, axis, whole, shape[axis])
        if part > 1e-6:
            out = first * (1 - part) + _window(out, axis, whole + 1, shape[axis]) * part
        else:
            out = first
    return out if np.isnan(fill) else np.where(np.isnan(out), np.float32(fill), out)


def _window(array: np.ndarray, axis: int, start: int, size: int) -> np.ndarray:
    """`size` entries of `axis` from `start`, NaN outside the array."""
    shape = list(array.shape)
    shape[axis] = size
    out = np.full(shape, np.nan, np.float32, order="F")
    low, high = max(start, 0), min(start + size, array.shape[axis])
    if low < high:
        target = [slice(None)] * 2
        source = [slice(None)] * 2
        target[axis], source[axis] = slice(low - start, high - start), slice(low, high)
        out[tuple(target)] = array[tuple(source)]
    return out


def straight_affine(
    affine: Float[np.ndarray, "4 4"], shape: tuple[int, int, int]
) -> tuple[Float[np.ndarray, "4 4"], tuple[int, int, int]]:
    """A right-angled grid (affine, shape) over a sheared one: i stays, j and k are made perpendicular, sizes stay.

    The k spacing becomes the distance between planes; the grid covers every voxel of the source.
    """
    columns = np.asarray(affine, float)[:3, :3]
    i = columns[:, 0] / np.linalg.norm(columns[:, 0])
    j = columns[:, 1] - (columns[:, 1] @ i) * i
    j /= np.linalg.norm(j)
    k = np.cross(i, j) * np.sign(np.linalg.det(columns))
    sizes = np.array([np.linalg.norm(columns[:, 0]), abs(columns[:, 1] @ j), abs(columns[:, 2] @ k)])
    axes = np.stack([i, j, k], axis=1)
    from medssl.volume.geometry import corners_mm

    along = corners_mm(affine, shape) @ axes
    low, high = along.min(axis=0), along.max(axis=0)
    new_shape = tuple(int(n) for n in np.ceil((high - low) / sizes - 1e-6) + 1)
    out = np.eye(4)
    out[:3, :3] = axes * sizes
    out[:3, 3] = axes @ low
    return out, new_shape  # type: ignore[return-value]


def resample(
    array: Num[np.ndarray, "i j k"],
    affine: Float[np.ndarray, "4 4"],
    grid_affine: Float[np.ndarray, "4 4"],
    grid_shape: tuple[int, int, int],
    *,
    order: int = 1,
    fill: float = 0.0,
) -> Num[np.ndarray, "_ _ _"]:
    """`array` `(i, j, k)` on another grid, trilinear (`order=1`, float32) or nearest (`order=0`, its own dtype).

    Points outside the source's voxel centres get `fill`.
    """
    from scipy import ndimage

    to_source = np.linalg.inv(affine) @ grid_affine
    # round-off must not push the outermost centres out of the image
    offset = np.where(np.abs(to_source[:3, 3] - np.round(to_source[:3, 3])) < 1e-9, np.round(to_source[:3, 3]), to_source[:3, 3])
    matrix = np.where(
        np.abs(to_source[:3, :3] - np.round(to_source[:3, :3])) < 1e-12, np.round(to_source[:3, :3]), to_source[:3, :3]
    )
    source = array.astype(np.float32) if order else array
    return np.asfortranarray(
        ndimage.affine_transform(source, matrix, offset, output_shape=grid_shape, order=order, mode="constant", cval=fill)
    )
