"""Affines, orientation and resampling against nibabel, scipy and the analytic phantom."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from medssl.core.rng import rng
from medssl.volume import geometry
from medssl.volume.geometry import (
    axis_codes,
    closest_canonical,
    corner_distance_mm,
    is_usable,
    reoriented_affine,
    shear_deg,
    slice_affine,
    spacing_mm,
)
from medssl.volume.resample import resample, shifted_plane, straight_affine, straight_grid, straightened_plane

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def random_affine(seed: int, *, turn_deg: float = 30) -> np.ndarray:
    r = rng(seed, "affine")
    axes = np.eye(3)[r.permutation(3)] * r.choice([-1, 1], 3)
    turn = Rotation.from_euler("xyz", r.uniform(-turn_deg, turn_deg, 3), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes * r.uniform(0.4, 5, 3)
    affine[:3, 3] = r.uniform(-200, 200, 3)
    return affine


def test_doctests() -> None:
    assert doctest.testmod(geometry).failed == 0


def test_an_uneven_stack_reproduces_a_field_that_is_linear_along_it() -> None:
    depths = np.array([0.0, 2.0, 4.0, 6.0, 9.1, 11.1, 13.1, 15.1])
    across, down = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    grid = straight_grid(depths[:, None] * np.cross(across, down), across, down, (1.0, 1.0), (3, 2))
    assert grid.step_mm == 2.0 and grid.shape == (3, 2, 8)
    planes = [straightened_plane(grid, k, lambda n: np.full((3, 2), 10 * depths[n]), np.nan) for k in range(8)]
    np.testing.assert_allclose([plane[0, 0] for plane in planes], 20.0 * np.arange(8), rtol=1e-6)


@pytest.mark.parametrize("seed", range(50))
def test_canonical_orientation_is_nibabels(seed: int) -> None:
    affine = random_affine(seed)
    r = rng(seed, "array")
    array = r.integers(-1000, 1000, r.integers(2, 7, 3)).astype(np.int16)
    reference = nibabel.as_closest_canonical(nibabel.Nifti1Image(array, affine))
    turn = closest_canonical(affine)
    assert np.array_equal(turn.apply(array), np.asarray(reference.dataobj))
    assert np.allclose(reoriented_affine(affine, turn, array.shape), reference.affine)
    assert axis_codes(affine) == "".join(nibabel.aff2axcodes(affine))
    assert np.array_equal(turn.restore(turn.apply(array)), array)


def test_restore_of_a_view_writes_into_the_same_memory() -> None:
    turn = closest_canonical(random_affine(3))
    out = np.zeros((3, 4, 5), order="F")
    turn.restore(out)[0, 0, 0] = 7
    assert (out == 7).sum() == 1


def test_slice_affine_is_the_standards_equation() -> None:
    affine = slice_affine(np.array([1.0, 2, 3]), np.array([0.0, 1, 0, 0, 0, -1]), np.array([0.5, 0.7]), np.array([2.0, 0, 0]))
    i, j, k = 3, 4, 5
    lps = np.array([1.0, 2, 3]) + i * 0.7 * np.array([0, 1, 0]) + j * 0.5 * np.array([0, 0, -1]) + k * np.array([2.0, 0, 0])
    assert np.allclose(affine @ [i, j, k, 1], [-lps[0], -lps[1], lps[2], 1])
    assert np.allclose(spacing_mm(affine), [0.7, 0.5, 2.0])


def test_corner_distance_sees_a_shift_and_a_turn() -> None:
    affine = random_affine(1)
    moved = affine.copy()
    moved[:3, 3] += [0, 0.3, 0.4]
    assert corner_distance_mm(affine, moved, (5, 6, 7)) == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([1.0, 1, 0, 1]), np.diag([1e-6, 1, 1, 1])])
def test_unusable_affines_are_seen(bad: np.ndarray) -> None:
    assert not is_usable(bad)
    assert is_usable(random_affine(0))


def test_shear_is_measured() -> None:
    affine = random_affine(2)
    assert shear_deg(affine) < 1e-5
    affine[:3, 2] += affine[:3, 1] / np.linalg.norm(affine[:3, 1]) * np.linalg.norm(affine[:3, 2]) * np.tan(np.radians(12))
    assert shear_deg(affine) == pytest.approx(12, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_shifted_plane_is_scipys_linear_interpolation(seed: int) -> None:
    r = rng(seed, "plane")
    plane = r.normal(size=(9, 11)).astype(np.float32)
    shift = r.uniform(-4, 4, 2) if seed else np.array([2.0, -3.0])
    out = shifted_plane(plane, shift, (12, 10), np.nan)
    at = np.stack(np.meshgrid(np.arange(12), np.arange(10), indexing="ij")) + shift[:, None, None]
    expected = map_coordinates(plane, at, order=1, mode="constant", cval=np.nan)
    inside = ((at >= 0) & (at <= np.array([8, 10])[:, None, None])).all(axis=0)
    assert np.allclose(out[inside], expected[inside], atol=1e-5)
    assert np.isnan(out[~inside]).all()


@pytest.mark.parametrize("degrees", [-30, -11.3, 0.5, 18.5, 30])
def test_straightened_stack_reproduces_a_linear_field(degrees: float) -> None:
    from phantoms import random_phantom, tilted

    phantom = tilted(random_phantom(0, orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)), degrees)
    positions = phantom.positions()
    rows_run, columns_run = np.array(phantom.orientation[:3]), np.array(phantom.orientation[3:])
    spacing_ij = (phantom.spacing[1], phantom.spacing[0])
    grid = straight_grid(positions, rows_run, columns_run, spacing_ij, (phantom.columns, phantom.rows))
    volume = np.stack(
        [straightened_plane(grid, k, lambda n: phantom.plane(positions[n]).T, np.nan) for k in range(grid.shape[2])], axis=2
    )
    normal = np.cross(rows_run, columns_run)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    axes = np.stack([rows_run * spacing_ij[0], columns_run * spacing_ij[1], normal * grid.step_mm])
    truth = phantom.value(grid.origin + index @ axes)
    known = ~np.isnan(volume)
    assert known.sum() >= 0.9 * phantom.columns * phantom.rows * phantom.slices
    assert np.abs(volume - truth)[known].max() < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_resample_onto_a_straight_grid_reproduces_a_linear_field(seed: int) -> None:
    affine = random_affine(seed)
    affine[:3, 2] += 0.2 * affine[:3, 0]
    shape = (9, 8, 7)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    field = np.array([3.0, 2.0, 5.0])
    array = (index @ affine[:3, :3].T + affine[:3, 3]) @ field
    grid_affine, grid_shape = straight_affine(affine, shape)
    assert shear_deg(grid_affine) < 1e-6
    out = resample(array, affine, grid_affine, grid_shape, fill=np.nan)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in grid_shape], indexing="ij"), axis=-1)
    truth = (grid @ grid_affine[:3, :3].T + grid_affine[:3, 3]) @ field
    known = ~np.isnan(out)
    assert known.sum() > 0.5 * array.size
    assert np.abs(out - truth)[known].max() < 0.01


def test_nearest_resampling_keeps_labels() -> None:
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[2:4, 2:4, 2:4] = 9
    fine = np.diag([0.5, 0.5, 0.5, 1.0])
    out = resample(mask, np.eye(4), fine, (11, 11, 11), order=0)
    assert out.dtype == np.uint8
    assert set(np.unique(out)) == {0, 9}
    assert np.array_equal(out[::2, ::2, ::2], mask)
