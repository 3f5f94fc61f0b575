"""Another spacing on the same axes: linear with anti-aliasing, or nearest for masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from medssl.core.shapes import Float, Num

if TYPE_CHECKING:
    from scipy import sparse


def resample_to_spacing(
    array: Num[np.ndarray, "i j k"],
    affine: Float[np.ndarray, "4 4"],
    spacing_mm: Sequence[float] | Float[np.ndarray, "3"],
    *,
    order: Literal[0, 1] = 1,
) -> tuple[Num[np.ndarray, "_ _ _"], Float[np.ndarray, "4 4"]]:
    """`array` `(i, j, k)` at another voxel size, and its affine; axes keep their direction, the volume keeps its centre.

    `order=1` gives float32, linear between voxel centres. If an axis becomes coarser by a step `s`, that line is averaged over
    √(s² − 1) source voxels, so that detail beyond the new grid does not alias. Fields that are linear in the world stay exact.
    `order=0` takes the nearest voxel and keeps the dtype. Beyond the outermost centres the edge value continues.

    Raises:
        ValueError: a spacing is not above 0.
    """
    if not all(0 < step < np.inf for step in spacing_mm):
        raise ValueError(f"spacing must be above 0 mm, got {list(spacing_mm)}")
    have_mm = np.linalg.norm(affine[:3, :3], axis=0)
    steps = [float(want) / float(have) for want, have in zip(spacing_mm, have_mm, strict=True)]
    places = [_places(size, step) for size, step in zip(array.shape, steps, strict=True)]
    new_affine = np.array(affine, dtype=np.float64)
    new_affine[:3, 3] += affine[:3, :3] @ [along[0] for along in places]
    new_affine[:3, :3] *= steps
    if order == 0:
        nearest = [np.clip(np.rint(p), 0, n - 1).astype(np.intp) for p, n in zip(places, array.shape, strict=True)]
        return np.asfortranarray(array[np.ix_(*nearest)]), new_affine
    return _linear(array, [_weights(p, n, step) for p, n, step in zip(places, array.shape, steps, strict=True)]), new_affine


def _places(size: int, step: float) -> np.ndarray:
    """Positions of the new voxels, in source voxels: the same extent, centred."""
    count = max(1, round(size / step))
    return (size - count * step) / 2 + (step - 1) / 2 + step * np.arange(count)


def _weights(places: np.ndarray, size: int, step: float) -> sparse.csr_array:
    """`(new, source)` matrix of an axis: each row sums to one; weight beyond the edge goes to the edge."""
    from scipy import sparse

    width = float(np.sqrt(max(step**2 - 1, 0.0)))
    reach = 1 + width / 2
    taps = np.floor(places - reach).astype(np.intp)[:, None] + 1 + np.arange(int(np.ceil(2 * reach)))
    weights = _line_mean(places[:, None] - taps, width)
    rows = np.repeat(np.arange(len(places)), taps.shape[1])
    matrix = sparse.csr_array((weights.ravel(), (rows, taps.clip(0, size - 1).ravel())), shape=(len(places), size))
    matrix.eliminate_zeros()
    return matrix.astype(np.float32)


def _line_mean(distance: np.ndarray, width: float) -> np.ndarray:
    """Weight of a voxel at `distance` in the mean, over `width`, of the line between voxels."""
    if width < 1e-6:
        return np.clip(1 - np.abs(distance), 0, None)

    def integral(x: np.ndarray) -> np.ndarray:
        x = np.clip(x, -1, 1)
        return 0.5 + x - np.sign(x) * x**2 / 2

    return (integral(distance + width / 2) - integral(distance - width / 2)) / width


def _linear(array: np.ndarray, weights: list[sparse.csr_array]) -> np.ndarray:
    """The three matrices applied plane by plane, so that everything but the result stays in the processor's cache."""
    along_i, along_j, along_k = weights
    out = np.empty((along_i.shape[0], along_j.shape[0], along_k.shape[0]), dtype=np.float32, order="F")
    for k in range(out.shape[2]):
        taps = slice(along_k.indptr[k], along_k.indptr[k + 1])
        plane = sum(w * array[:, :, n].astype(np.float32) for n, w in zip(along_k.indices[taps], along_k.data[taps], strict=True))
        out[:, :, k] = along_i @ np.ascontiguousarray((along_j @ np.ascontiguousarray(plane.T)).T)
    return out
