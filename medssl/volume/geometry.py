"""Affines: from slices to RAS+ millimetres, and the closest canonical orientation and its inverse."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from medssl.core.shapes import Float, Shaped

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SAME_CORNER_VOX = 0.1
"""Two grids count as equal if no corner differs by more than this, in voxels along each axis."""
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class Reorientation:
    """How an array was reoriented: output axis `a` is source axis `axes[a]`, reversed where `flips[a]`."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: Shaped[np.ndarray, "_ _ _"]) -> Shaped[np.ndarray, "_ _ _"]:
        """A view `(i, j, k)` of a source array in the new orientation; no voxel value changes."""
        return array.transpose(self.axes)[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def restore(self, array: Shaped[np.ndarray, "_ _ _"]) -> Shaped[np.ndarray, "_ _ _"]:
        """The source array again, as a view: the inverse of `apply`."""
        flipped = array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return flipped.transpose(tuple(int(axis) for axis in np.argsort(self.axes)))

    def matrix(self, shape: tuple[int, int, int]) -> Float[np.ndarray, "4 4"]:
        """4×4 from new voxel indices to source voxel indices, for a source of this shape."""
        out = np.zeros((4, 4))
        out[3, 3] = 1.0
        for axis, (source, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            out[source, axis] = -1.0 if flip else 1.0
            out[source, 3] = shape[source] - 1.0 if flip else 0.0
        return out


def slice_affine(
    position: Float[np.ndarray, "3"],
    orientation: Float[np.ndarray, "6"],
    spacing: Float[np.ndarray, "2"],
    step: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "4 4"]:
    """4×4 from voxel (i, j, k) to RAS+ mm of a stack of DICOM slices.

    `position` (3,) LPS mm of the first slice's first voxel; `orientation` (6,) direction of a row's run (i) and of a
    column's run (j); `spacing` (2,) DICOM PixelSpacing: between rows (j), between columns (i); `step` (3,) LPS mm from
    slice to slice.

    Source: DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1.
    """
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(orientation[:3]) * spacing[1]
    affine[:3, 1] = np.asarray(orientation[3:]) * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = position
    return LPS_TO_RAS @ affine


def spacing_mm(affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "3"]:
    """Voxel sizes (3,) in mm: lengths of the affine's columns."""
    return np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)


def closest_canonical(affine: Float[np.ndarray, "4 4"]) -> Reorientation:
    """The permutation and flips that bring an affine closest to RAS+.

    >>> closest_canonical(np.diag([-1.0, -1.0, 2.0, 1.0]))
    Reorientation(axes=(0, 1, 2), flips=(True, True, False))
    """
    cosines = np.asarray(affine)[:3, :3] / spacing_mm(affine)
    best = max(permutations(range(3)), key=lambda axes: sum(abs(cosines[world, axes[world]]) for world in range(3)))
    flips = tuple(bool(cosines[world, best[world]] < 0) for world in range(3))
    return Reorientation(axes=best, flips=flips)  # type: ignore[arg-type]


def reoriented_affine(
    affine: Float[np.ndarray, "4 4"], turn: Reorientation, shape: tuple[int, int, int]
) -> Float[np.ndarray, "4 4"]:
    """The affine of `turn.apply(array)`, given the source's `affine` and `shape`."""
    return np.asarray(affine) @ turn.matrix(shape)


def axis_codes(affine: Float[np.ndarray, "4 4"]) -> str:
    """The direction of each voxel axis, such as `LPS` (RAS+ is `RAS`).

    >>> axis_codes(np.diag([-1.0, -1.0, 2.0, 1.0]))
    'LPS'
    """
    turn = closest_canonical(affine)
    letters = [""] * 3
    for world in range(3):
        letters[turn.axes[world]] = _LETTERS[world][0 if turn.flips[world] else 1]
    return "".join(letters)


def corners_mm(affine: Float[np.ndarray, "4 4"], shape: tuple[int, int, int]) -> Float[np.ndarray, "8 3"]:
    """World coordinates `(8, 3)` of the outermost voxel centres."""
    ends = np.array(list(product(*[(0.0, n - 1.0) for n in shape])))
    return ends @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]


def corner_distance_mm(one: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"], shape: tuple[int, int, int]) -> float:
    """The largest distance between the places that two affines give a corner of the grid."""
    return float(np.linalg.norm(corners_mm(one, shape) - corners_mm(other, shape), axis=1).max())


def corner_distance_vox(one: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"], shape: tuple[int, int, int]) -> float:
    """The largest distance, along an axis of `one` and in its voxels, between the places that two affines give a corner."""
    apart_mm = corners_mm(other, shape) - corners_mm(one, shape)
    return float(np.abs(apart_mm @ np.linalg.inv(np.asarray(one)[:3, :3]).T).max())


def shear_deg(affine: Float[np.ndarray, "4 4"]) -> float:
    """The largest departure from a right angle between two voxel axes, in degrees.

    >>> round(shear_deg(np.array([[1.0, 0, 0, 0], [0, 1, 0.1, 0], [0, 0, 1, 0], [0, 0, 0, 1]])), 2)
    5.71
    """
    columns = np.asarray(affine)[:3, :3] / spacing_mm(affine)
    products = np.abs([columns[:, a] @ columns[:, b] for a, b in ((0, 1), (0, 2), (1, 2))])
    return float(np.degrees(np.arcsin(np.clip(products.max(), 0.0, 1.0))))


def is_usable(affine: Float[np.ndarray, "4 4"]) -> bool:
    """Whether an affine is finite, invertible and of plausible voxel size (1 µm to 1 m)."""
    if not np.isfinite(affine).all():
        return False
    sizes = spacing_mm(affine)
    if (sizes < 1e-3).any() or (sizes > 1e3).any():
        return False
    return bool(abs(np.linalg.det(np.asarray(affine)[:3, :3] / sizes)) > 1e-3)
