"""Laws of windows, quantising and counted percentiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medssl.volume.intensity import (
    above_minimum,
    counts_of,
    moments_of,
    number_above,
    ordinary_range,
    percentiles_of,
    quantise,
    values_of,
    windowed,
)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (4, 3, 5), elements=st.floats(-1e6, 1e6, width=32)))
def test_quantising_errs_by_half_a_step_and_the_step_is_small(values):
    stored, slope, intercept = quantise(values)
    assert stored.dtype == np.int16
    back = stored.astype(np.float64) * slope + intercept
    spread = float(values.max()) - float(values.min())
    assert np.abs(back - values).max() <= slope / 2 * (spread > 0)
    assert slope < spread / 32500 or spread == 0


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, (3, 4, 5), elements=st.integers(-32000, 32000)))
def test_whole_numbers_over_16_bits_stay_exact(values):
    stored, slope, intercept = quantise(values.astype(np.float32))
    np.testing.assert_array_equal(stored * slope + intercept, values)


def test_resampled_ct_errs_by_less_than_a_tenth_of_a_hu():
    values_hu = np.random.default_rng(0).uniform(-1024, 3071, (20, 20, 20)).astype(np.float32)
    stored, slope, intercept = quantise(values_hu)
    assert np.abs(stored * slope + intercept - values_hu).max() <= 0.0625


def _image(seed: int) -> np.ndarray:
    """Float tissue and a background of noise, like an MR."""
    r = np.random.default_rng(seed)
    values = np.abs(r.normal(0, 4, (30, 28, 20))).astype(np.float32)
    values[6:24, 5:22, 3:17] = r.normal(600, 150, (18, 17, 14))
    return values


@pytest.mark.parametrize("number", [1e5, 1e7, 1e9, 1e20, -1e20, 3.4e38, -3.4e38])
@pytest.mark.parametrize("count", [1, 5, 60])
def test_outliers_take_nothing_from_the_precision_of_all_other_values(number: float, count: int) -> None:
    values = _image(0)
    where = np.random.default_rng(1).choice(values.size, count, replace=False)
    spiked = values.copy()
    spiked.flat[where] = np.float32(number) * np.linspace(0.5, 1, count, dtype=np.float32)
    stored, slope, intercept = quantise(spiked)
    back = stored.astype(np.float64) * slope + intercept
    others = np.ones(values.size, bool)
    others[where] = False
    others = others.reshape(values.shape)
    spread = float(values[others].max()) - float(values[others].min())
    assert np.abs(back - values)[others].max() <= slope / 2
    assert slope < spread / 1000
    assert values[others].min() - slope <= back.min() and back.max() <= values[others].max() + slope


def test_an_ordinary_range_is_that_of_the_values_where_there_are_no_outliers() -> None:
    for seed in range(5):
        values = _image(seed)
        values[8:10, 8:10, 8:10] = 9000.0
        found = ordinary_range(values)
        assert (found.low, found.high, found.outliers, found.distinguished) == (values.min(), values.max(), False, True)


def test_a_fill_value_over_much_of_the_image_is_an_outlier_too() -> None:
    values = _image(0)
    values[:8] = -1e30
    found = ordinary_range(values)
    assert found.outliers and found.low >= 0 and found.distinguished


def test_values_that_no_16_bits_hold_are_not_distinguished() -> None:
    values = _image(0)
    junk = np.random.default_rng(2).random(values.shape) < 0.1
    values[junk] = 10 ** np.random.default_rng(3).uniform(6, 30, int(junk.sum()))
    assert not ordinary_range(values).distinguished


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        quantise(np.array([[[0.0, bad]]], dtype=np.float32))


@settings(max_examples=60, deadline=None)
@given(arrays(np.int16, (30,)), st.sampled_from([1.0, 0.5, -2.0]), st.floats(-100, 100))
def test_counted_percentiles_are_numpys(stored, slope, intercept):
    counts = counts_of([stored[:7], stored[7:]], slope, intercept)
    values = stored * slope + intercept
    percents = [0, 0.5, 25, 50, 99.5, 100]
    np.testing.assert_allclose(percentiles_of(counts, percents), np.percentile(values, percents, method="inverted_cdf"))
    np.testing.assert_allclose(moments_of(counts), (values.mean(), values.std()), rtol=1e-9, atol=1e-6)
    assert counts.number.sum() == 30


@pytest.mark.parametrize("number", [1, 4, 20])
def test_a_percentile_that_falls_on_a_share_is_the_lower_value(number):
    """By numpy's inverted_cdf: the least value with at least that share at or below it."""
    stored = np.repeat(np.array([9, -3, 5, 7], np.int16), number)
    counts = counts_of([stored])
    assert percentiles_of(counts, [0, 25, 50, 75, 100]) == [-3, -3, 5, 7, 9]
    assert percentiles_of(counts, [25.1, 50.1, 75.1]) == [5, 7, 9]


def test_foreground_leaves_out_the_least_value_only():
    counts = above_minimum(counts_of([np.array([0, 0, 0, 3, 4], np.uint8)]))
    assert counts.values.tolist() == [3, 4]
    assert above_minimum(counts_of([np.zeros(5, np.uint8)])).values.tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(arrays(np.int16, (3, 4, 5)), st.sampled_from([1.0, 0.125, -3.0]), st.floats(-2000, 2000), st.floats(-40000, 40000))
def test_number_above_is_that_of_the_values(stored, slope, intercept, value):
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        expected = ((stored - (value - intercept) / slope) * slope > 0).sum(axis=others)
        np.testing.assert_array_equal(number_above(stored, slope, intercept, value, axis=axis), expected)


@pytest.mark.parametrize(
    ("slope", "value", "above"), [(1.0, 3.5, 2), (1.0, 4.0, 1), (0.5, 1.75, 2), (-1.0, -3.5, 1), (-1.0, -4.0, 1)]
)
def test_number_above_a_value_between_two_stored_numbers_has_the_upper_one(slope, value, above):
    stored = np.array([3, 4, 5], np.int16).reshape(3, 1, 1)
    assert number_above(stored, slope, 0.0, value, axis=1).tolist() == [above]


def test_window_of_ct_in_hu():
    stored = np.array([[24, 1024, 2024, 3024]], np.int16)
    values = values_of(stored.astype(np.float32), 1.0, -1024.0)
    seen = np.stack([windowed(values, low, high) for low, high in ((-1000.0, 1000.0), (0.0, 500.0))])
    assert seen.dtype == np.float32
    assert seen.shape == (2, 1, 4)
    np.testing.assert_allclose(seen, [[[0, 0.5, 1, 1]], [[0, 0, 1, 1]]])
