"""Laws of the prepared grid and of the window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medssl.prepare.grid import positions_mm, slice_axis, target_spacing
from medssl.prepare.window import window
from medssl.volume.intensity import counts_of, values_of, windowed


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


def ends(stored: np.ndarray, modality: str, *, kind: str = "volume", slope: float = 1.0, intercept: float = 0.0) -> Any:
    """Low and high ends of an array's window; two CT windows, percentiles 0 and 100 of the foreground."""
    return window(
        counts_of([stored], slope, intercept), modality=modality, kind=kind, dtype=stored.dtype, slope=slope, intercept=intercept,
        window_hu=[[-1000, 400], [-160, 240]], percentiles=[0, 100],
    )  # fmt: skip


@pytest.mark.parametrize("value", [-32768, 0, 7, 32767])
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.25, -10.0), (-2.0, 5.0)])
def test_a_constant_volume_has_a_window_and_is_black_in_it(value: int, slope: float, intercept: float) -> None:
    stored = np.full((4, 3, 2), value, np.int16)
    low, high = ends(stored, "MR", slope=slope, intercept=intercept)
    assert low == [value * slope + intercept] * 2 and high == [low[0] + abs(slope)] * 2
    assert (windowed(values_of(stored.astype(np.float64), slope, intercept), low[0], high[0]) == 0).all()


def test_the_window_of_an_mr_is_that_of_its_foreground() -> None:
    stored = np.array([0, 0, 0, 0, 0, 0, 3, 5, 9], np.int16).reshape(3, 3, 1)
    assert ends(stored, "MR", slope=2.0, intercept=1.0) == ([7.0, 7.0], [19.0, 19.0])
    assert ends(stored, "CT") == ([-1000.0, -160.0], [400.0, 240.0])


@pytest.mark.parametrize(("dtype", "most"), [(np.uint8, 255), (np.uint16, 65535)])
def test_an_unsigned_image_has_the_whole_range_of_its_type(dtype: Any, most: int) -> None:
    stored = np.array([[[3, 4]]], dtype)
    assert ends(stored, "OT", kind="images", slope=0.5, intercept=2.0) == ([2.0, 2.0], [2.0 + most / 2] * 2)
    assert ends(stored, "OT", kind="images", slope=-1.0) == ([-float(most)] * 2, [0.0, 0.0])
