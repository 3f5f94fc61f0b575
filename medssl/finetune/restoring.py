"""Masks restored to their original grid: orientation, spacing and shape of the source image."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32
from scipy import ndimage
from torch import Tensor

from medssl.volume.geometry import Reorientation
from medssl.volume.resample import resample

WHOLE_TOLERANCE_VOX = 1e-3


def exact_turn(
    affine: np.ndarray, shape: tuple[int, ...], source_affine: np.ndarray, source_shape: tuple[int, ...]
) -> Reorientation | None:
    """The permutation and flips that turn a source grid into a grid, or None if they differ by more than that.

    Args:
        affine, shape: of the grid, 4×4 to RAS+ mm.
        source_affine, source_shape: of the source.
    """
    to_source = np.linalg.inv(source_affine) @ affine
    whole = np.round(to_source[:3, :3])
    if sorted(map(tuple, np.abs(whole).tolist())) != [(0, 0, 1), (0, 1, 0), (1, 0, 0)]:
        return None
    axes = tuple(int(axis) for axis in np.abs(whole).argmax(axis=0))
    flips = tuple(bool(whole[axes[a], a] < 0) for a in range(3))
    turn = Reorientation(axes, flips)  # type: ignore[arg-type]
    if tuple(source_shape[axis] for axis in axes) != tuple(shape):
        return None
    off = (to_source - turn.matrix(tuple(source_shape)))[:3]  # type: ignore[arg-type]
    corners = np.array(np.meshgrid(*[(0, extent - 1) for extent in shape])).reshape(3, -1)
    return turn if np.abs(off[:, :3] @ corners + off[:, 3:]).max() < WHOLE_TOLERANCE_VOX else None


def restored_mask(
    mask: np.ndarray, affine: np.ndarray, source_affine: np.ndarray, source_shape: tuple[int, int, int]
) -> np.ndarray:
    """A mask `(i, j, k)` on the source grid: voxel by voxel if only the orientation differs, else by nearest voxel.

    The edge continues for up to one voxel beyond the outermost centres, as in `resample_to_spacing`: a voxel is a box, and the
    two grids need not end at the same place.
    """
    turn = exact_turn(affine, mask.shape, source_affine, source_shape)
    if turn is not None:
        return np.asfortranarray(turn.restore(mask))
    return resample(*_with_edge(mask, affine), source_affine, source_shape, order=0)


def restored_classes(
    probabilities: Float32[Tensor, "classes i j k"],
    affine: np.ndarray,
    source_affine: np.ndarray,
    source_shape: tuple[int, int, int],
) -> np.ndarray:
    """The most probable class of each voxel of the source grid, uint8 indices.

    If the spacing differs, probabilities are interpolated (trilinear) before the class is chosen, so that borders are not those
    of
    the coarser grid. The edge continues for one voxel, as in `restored_mask`; farther outside is class 0.

    Args:
        probabilities: on the prepared grid, on any device.
        affine: of the prepared grid; source_affine, source_shape: of the source grid.
    """
    turn = exact_turn(affine, probabilities.shape[1:], source_affine, source_shape)
    if turn is not None:
        return np.asfortranarray(turn.restore(probabilities.argmax(dim=0).to(torch.uint8).cpu().numpy()))
    whole = probabilities.cpu().numpy()
    best = np.zeros(source_shape, dtype=np.uint8)
    highest = resample(*_with_edge(whole[0], affine), source_affine, source_shape, order=1, fill=1.0)
    for index in range(1, len(whole)):
        current = resample(*_with_edge(whole[index], affine), source_affine, source_shape, order=1, fill=0.0)
        above = current > highest
        best[above], highest[above] = index, current[above]
    return np.asfortranarray(best)


def _with_edge(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`array` `(i, j, k)` padded by repeating its outermost voxels, and the new affine."""
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, :3].sum(axis=1)
    return np.pad(array, 1, mode="edge"), moved


def largest_components(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Keep only the largest connected part of each foreground class (faces touch); the first on a tie."""
    out = np.zeros_like(mask)
    for index in range(1, num_classes):
        labels, count = ndimage.label(mask == index)
        if count:
            sizes = np.bincount(labels.ravel())[1:]
            out[labels == 1 + int(sizes.argmax())] = index
    return out
