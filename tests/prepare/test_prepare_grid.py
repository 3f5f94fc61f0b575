"""Laws of the prepared grid."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.prepare.grid import positions_mm, slice_axis, target_spacing


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [
        ((1, 1, 5), 2),
        ((5, 1, 1), 0),
        ((1, 5, 1), 1),
        ((1, 1, 1), 2),
        ((1.5, 1.5, 1.4999), 2),
        ((3, 3, 1), 1),
        ((3, 1, 3), 2),
        (None, 2),
    ],
)
def test_slices_are_cut_along_the_coarsest_axis_and_k_wins_ties(spacing, axis):
    assert slice_axis(spacing, "auto") == axis


def test_a_named_axis_is_taken():
    assert [slice_axis((1, 1, 5), name) for name in "ijk"] == [0, 1, 2]


def test_no_resampling_where_the_spacing_is_there_already():
    assert target_spacing((0.7, 0.7, 5.0), None) is None
    assert target_spacing((0.7, 0.7, 5.0), [None, None, None]) is None
    assert target_spacing((0.70001, 0.7, 5.0), [0.7, 0.7, None]) is None
    assert target_spacing((0.7, 0.7, 5.0), [1.0, 1.0, None]) == (1.0, 1.0, 5.0)


def test_positions_lie_along_the_normal_of_an_oblique_volume():
    angle = np.deg2rad(25)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.7, 0.8, 3.0]
    affine[:3, 3] = [-10, 20, -30]
    for axis, step in enumerate((0.7, 0.8, 3.0)):
        places = positions_mm(affine, axis, 9)
        np.testing.assert_allclose(np.diff(places), step, rtol=1e-5)
        # every voxel of a plane has the plane's position
        voxel = np.array([4.0, 5.0, 6.0, 1.0])
        assert (affine @ voxel)[:3] @ turn[:, axis] == pytest.approx(places[int(voxel[axis])], abs=1e-4)


def test_positions_of_a_sheared_volume_are_distances_between_planes():
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    affine[1, 2] = 2.0
    np.testing.assert_allclose(positions_mm(affine, 2, 4), [0, 5, 10, 15])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"window_hu": [[100, -100]]}, "below the second"),
        ({"window_hu": []}, "at least 1"),
        ({"spacing_mm": [1, 1]}, "three numbers"),
        ({"spacing_mm": [1, 0, None]}, "above 0"),
        ({"percentiles": [99, 1]}, "ascending"),
        ({"split": {"val_frac": 0.5, "test_frac": 0.5}}, "leave nothing to train on"),
        ({"slice_axis": "x"}, "slice_axis"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(options, sentence):
    from pydantic import ValidationError

    from medssl.prepare.options import PrepareOptions

    with pytest.raises(ValidationError, match=sentence):
        PrepareOptions(**options)
