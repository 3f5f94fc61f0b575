"""Laws of resampling to a spacing; truth is a linear field, world coordinates and a slow quadrature."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.volume.spacing import resample_to_spacing

OBLIQUE = np.array([[0.68, -0.1, 0.4, -50], [0.12, 0.7, 0.3, 20], [-0.09, -0.05, 2.9, 7], [0, 0, 0, 1]])


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return grid @ affine[:3, :3].T + affine[:3, 3]


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.floats(0.4, 9.0)] * 3))
def test_a_linear_field_stays_where_it_is_in_the_world(spacing_mm):
    shape = (24, 20, 12)
    field = world(OBLIQUE, shape) @ [0.5, -0.3, 0.8]
    out, affine = resample_to_spacing(field, OBLIQUE, spacing_mm, order=1)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), spacing_mm)
    expected = world(affine, out.shape) @ [0.5, -0.3, 0.8]
    # the edge value continues beyond the rim: compare voxels whose neighbourhood lies inside
    have_mm = np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    rim = [int(np.ceil(have / want)) + 1 for have, want in zip(have_mm, spacing_mm, strict=True)]
    inner = tuple(slice(n, -n) for n in rim)
    np.testing.assert_allclose(out[inner], expected[inner], atol=2e-3)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.floats(0.3, 12.0)] * 3), st.sampled_from([0, 1]))
def test_a_constant_stays_and_the_middle_stays(spacing_mm, order):
    shape = (9, 7, 5)
    out, affine = resample_to_spacing(np.full(shape, 7, np.int16), OBLIQUE, spacing_mm, order=order)
    np.testing.assert_allclose(out, 7, rtol=1e-6)
    middle, new_middle = ((np.array(s) - 1) / 2 for s in (shape, out.shape))
    np.testing.assert_allclose(affine[:3, :3] @ new_middle + affine[:3, 3], OBLIQUE[:3, :3] @ middle + OBLIQUE[:3, 3], atol=1e-9)


@pytest.mark.parametrize("step", [0.3, 0.8, 1.0001, 1.3, 2.0, 3.7])
def test_one_axis_equals_a_slow_mean_of_the_line_between_voxels(step):
    line = np.random.default_rng(0).normal(size=50)
    out, affine = resample_to_spacing(line[:, None, None], np.eye(4), (step, 1.0, 1.0), order=1)
    width = np.sqrt(max(step**2 - 1, 0))
    for n, value in enumerate(out[:, 0, 0]):
        place = affine[0, 3] + step * n
        points = place + width * ((np.arange(20000) + 0.5) / 20000 - 0.5)
        assert value == pytest.approx(np.interp(points, np.arange(50), line).mean(), abs=1e-4)


def test_detail_that_the_new_grid_cannot_hold_is_averaged():
    stripes = np.tile([0.0, 1.0], 32)[:, None, None] * np.ones((64, 4, 4))
    out, _ = resample_to_spacing(stripes, np.eye(4), (4.0, 1.0, 1.0), order=1)
    np.testing.assert_allclose(out[1:-1], 0.5, atol=0.05)


def test_a_mask_keeps_its_labels_type_and_volume():
    i, j, k = np.meshgrid(*[np.arange(40) - 19.5] * 3, indexing="ij")
    ball = np.where(i**2 + j**2 + k**2 < 15**2, 7, 0).astype(np.uint8)
    out, affine = resample_to_spacing(ball, np.eye(4), (1.3, 0.8, 2.0), order=0)
    assert out.dtype == np.uint8
    assert set(np.unique(out)) == {0, 7}
    volume_mm3 = (out > 0).sum() * abs(np.linalg.det(affine[:3, :3]))
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.02)


def test_nothing_given_is_changed_and_the_same_spacing_is_the_same_array():
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    copy, affine = array.copy(), np.eye(4)
    out, new_affine = resample_to_spacing(array, affine, (1, 1, 1), order=1)
    np.testing.assert_array_equal(out, array)
    np.testing.assert_array_equal(new_affine, affine)
    resample_to_spacing(array, affine, (2, 2, 2), order=1)
    np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(affine, np.eye(4))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_spacing_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="above 0"):
        resample_to_spacing(np.zeros((2, 2, 2)), np.eye(4), (1.0, bad, 1.0))
