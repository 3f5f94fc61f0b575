"""Segmentation metrics equal MONAI's; empty masks are counted, never hidden."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from medssl.core.errors import CorruptArtefactError
from medssl.core.rng import rng
from medssl.evaluate.intervals import interval, unit_weights
from medssl.evaluate.metrics.dice import dice
from medssl.evaluate.metrics.hd95 import hd95
from medssl.evaluate.metrics.iou import iou
from medssl.evaluate.metrics.nsd import nsd
from medssl.evaluate.metrics.volume_error import volume_error
from medssl.evaluate.segmentation import CaseScores, empty_counts, score_case
from medssl.evaluate.surface import pair

METRICS = {"dice": dice, "iou": iou, "hd95": hd95, "nsd": nsd, "volume_error": volume_error}


def blob(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return ndimage.gaussian_filter(rng(seed, "blob").normal(size=shape), 2.0) > 0.05


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.8, 0.7, 2.5)])
@pytest.mark.parametrize("kind", ["flecked", "flecks", "strangers"])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_monai(seed: int, kind: str, spacing_mm: tuple[float, float, float]) -> None:
    """A mask against itself with flecks, the other way round, and two that have nothing to do with each other."""
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice

    shape = (18, 20, 12)
    prediction, target = blob(seed, shape), blob(seed, shape) ^ blob(seed + 50, shape) & (rng(seed, "flip").random(shape) < 0.1)
    if kind != "flecked":
        prediction, target = (target, prediction) if kind == "flecks" else (prediction, blob(seed + 50, shape))
    masks = pair(prediction, target, spacing_mm)
    a, b = (torch.from_numpy(np.stack([~m, m])[None]).float() for m in (prediction, target))
    only = {"include_background": False}
    assert dice(masks) == pytest.approx(float(compute_dice(a, b, **only)[0, 0]), abs=1e-6)
    assert iou(masks) == pytest.approx(float(compute_iou(a, b, **only)[0, 0]), abs=1e-6)
    expected = compute_hausdorff_distance(a, b, percentile=95, spacing=spacing_mm, **only)
    assert hd95(masks) == pytest.approx(float(expected[0, 0]), abs=1e-5)
    for tolerance_mm in (0.5, 1.0, 2.0):
        expected = compute_surface_dice(a, b, [tolerance_mm], spacing=spacing_mm, **only)
        assert nsd(masks, tolerance_mm=tolerance_mm) == pytest.approx(float(expected[0, 0]), abs=1e-6)


def test_boxes_with_a_known_answer() -> None:
    prediction, target = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    target[5:15, 5:15, 5:15] = True
    prediction[7:17, 5:15, 5:15] = True  # moved by two voxels of 1.5 mm
    masks = pair(prediction, target, (1.5, 1.0, 1.0))
    assert dice(masks) == pytest.approx(0.8)
    assert iou(masks) == pytest.approx(800 / 1200)
    assert hd95(masks) == pytest.approx(3.0)
    assert volume_error(masks) == 0.0
    assert nsd(masks, tolerance_mm=3.0) == 1.0


def test_equal_masks_are_perfect_and_touching_the_border_is_not_a_problem() -> None:
    mask = np.ones((4, 5, 6), bool)
    masks = pair(mask, mask, (1.0, 1.0, 1.0))
    assert (dice(masks), iou(masks), hd95(masks), nsd(masks), volume_error(masks)) == (1.0, 1.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [
        (False, False, {"dice": math.nan, "iou": math.nan, "hd95": math.nan, "nsd": math.nan, "volume_error": math.nan}),
        (True, False, {"dice": 0.0, "iou": 0.0, "hd95": math.nan, "nsd": 0.0, "volume_error": math.nan}),
        (False, True, {"dice": 0.0, "iou": 0.0, "hd95": math.nan, "nsd": 0.0, "volume_error": 1.0}),
    ],
)
def test_empty_masks_score_as_stated(prediction: bool, target: bool, expected: dict[str, float]) -> None:
    empty, full = np.zeros((6, 6), bool), np.zeros((6, 6), bool)
    full[2:4, 2:4] = True
    masks = pair(full if prediction else empty, full if target else empty, (1.0, 1.0))
    found = {name: metric(masks) for name, metric in METRICS.items()}
    assert found == pytest.approx(expected, nan_ok=True)


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(CorruptArtefactError, match="one grid"):
        score_case(np.zeros((3, 3)), np.zeros((3, 4)), {1: "organ"}, (1.0, 1.0), METRICS)


def test_the_mean_leaves_out_cases_without_a_value_in_every_resample() -> None:
    values = np.array([0.9, math.nan, 0.7, 0.8, 0.6, 0.5])
    weights = unit_weights(0, "test", 6, 50)
    found = CaseScores({"fit": {("dice", "organ"): values}}, weights, np.arange(6), 50).scores([["fit"]])["fit"]["dice", "organ"]
    assert found.num_units == 5
    assert found.value == pytest.approx(np.nanmean(values))
    for r in range(50):
        counts = weights[1 + r]
        known = np.isfinite(values)
        assert found.bootstrap[r] == pytest.approx((counts * np.nan_to_num(values))[known].sum() / counts[known].sum())


@pytest.mark.parametrize("axis", range(3))
def test_a_single_slice_is_scored_as_the_image_it_is(axis: int) -> None:
    i, j = np.indices((48, 48))
    discs = [(i - 20) ** 2 + (j - at) ** 2 < 100 for at in (18, 28)]
    spacing_mm = [1.0, 1.0]
    spacing_mm.insert(axis, 5.0)
    flat = pair(*discs, (1.0, 1.0))
    solid = pair(*(np.expand_dims(disc, axis) for disc in discs), tuple(spacing_mm))
    assert hd95(flat) > 8
    for metric in METRICS.values():
        assert metric(solid) == metric(flat)


def test_empty_masks_are_counted() -> None:
    place = {"arm": "a", "mode": "full", "fraction": 1.0, "class": "organ"}
    kinds = ["neither", "neither", "both", "prediction", "target"]
    counts = empty_counts(pd.DataFrame([{**place, "empty": kind} for kind in kinds]))
    row = counts.iloc[0]
    assert (row["both_hold"], row["both_empty"], row["missed"], row["false_alarm"]) == (2, 1, 1, 1)


NAN = math.nan


def of_cases(values: dict[str, dict[tuple[str, str], list[float]]], num_bootstrap: int = 300) -> CaseScores:
    """A unit per case."""
    arrays = {fit: {key: np.array(row) for key, row in rows.items()} for fit, rows in values.items()}
    n = len(next(iter(next(iter(arrays.values())).values())))
    return CaseScores(arrays, unit_weights(0, "test", n, num_bootstrap), np.arange(n), num_bootstrap)


def test_arms_that_are_alike_wherever_both_are_defined_do_not_differ() -> None:
    """One arm missed the hard half: its mean HD95 is better by 14 mm, its paired difference is 0."""
    easy, hard = [2.0 + 0.1 * n for n in range(10)], [30.0 + n / 5 for n in range(10)]
    made = of_cases({"a": {("hd95", "organ"): [*easy, *[NAN] * 10]}, "b": {("hd95", "organ"): [*easy, *hard]}})
    alone = made.scores([["a", "b"]])
    assert alone["b"]["hd95", "organ"].value - alone["a"]["hd95", "organ"].value > 14
    assert (alone["a"]["hd95", "organ"].num_units, alone["b"]["hd95", "organ"].num_units) == (10, 20)
    pair = made.compared(["a"], ["b"])["hd95", "organ"]
    found = interval(pair.difference, 0.95)
    assert (found.estimate, found.p, pair.difference.num_units) == (0.0, 1.0, 10)
    assert pair.a == pair.b == [pytest.approx(np.mean(easy))]
    assert pair.note == "left out: 10 of 20 cases, undefined in the first (10) or second (0)"
    assert np.isfinite(made.unit_differences(["a"], ["b"])["hd95", "organ"]).sum() == 10


def test_a_comparison_is_that_of_the_cases_that_every_fit_of_both_arms_has() -> None:
    random = rng(0, "paired")
    values = {fit: random.random(30) for fit in ("a0", "a1", "b0", "b1")}
    values["a1"][:4], values["b0"][2:7] = NAN, NAN
    made = of_cases({fit: {("dice", "organ"): row.tolist()} for fit, row in values.items()})
    kept = of_cases({fit: {("dice", "organ"): row[7:].tolist()} for fit, row in values.items()})
    pair, alone = (one.compared(["a0", "a1"], ["b0", "b1"])["dice", "organ"] for one in (made, kept))
    assert pair.difference.value == pytest.approx(alone.difference.value)
    assert (pair.a, pair.b) == (pytest.approx(alone.a), pytest.approx(alone.b))
    assert pair.difference.num_units == 23
    assert interval(pair.difference, 0.95).standard_error == pytest.approx(
        interval(alone.difference, 0.95).standard_error, rel=0.2
    )


def test_the_fits_of_a_comparison_are_scored_on_its_cases_under_its_draws() -> None:
    """The mean over the replicates of the fits of one arm less those of the other is the difference's own."""
    random = rng(1, "fits")
    values = {fit: {("dice", name): random.random(25) for name in ("a", "b")} for fit in ("a0", "a1", "b0")}
    values["a0"]["dice", "a"][:3], values["b0"]["dice", "b"][5] = NAN, NAN
    made = of_cases({fit: {key: row.tolist() for key, row in rows.items()} for fit, rows in values.items()})
    for key, found in made.compared(["a0", "a1"], ["b0"]).items():
        of = found.of_fits
        assert set(of) == {"a0", "a1", "b0"} and {one.num_units for one in of.values()} == {found.difference.num_units}
        for part in ("value", "bootstrap", "jackknife"):
            mean = (getattr(of["a0"], part) + getattr(of["a1"], part)) / 2 - getattr(of["b0"], part)
            assert mean == pytest.approx(getattr(found.difference, part), abs=1e-12), key


def test_means_over_classes_are_over_the_same_classes_in_both_arms() -> None:
    """An arm that never finds the harder class is not set with its easier one against the other's two."""
    a = {("hd95", "easy"): [1.0] * 8, ("hd95", "hard"): [NAN] * 8}
    b = {("hd95", "easy"): [1.0] * 8, ("hd95", "hard"): [9.0] * 8}
    made = of_cases({"a": a, "b": b})
    pair = made.compared(["a"], ["b"])["hd95", "macro"]
    assert (pair.difference.value, pair.a, pair.b) == (0.0, [1.0], [1.0])
    assert pair.note == "left out: hard, undefined in an arm"
    alone = made.scores([["a", "b"]])
    assert alone["a"]["hd95", "macro"].value == alone["b"]["hd95", "macro"].value == 1.0
    assert made.left_out(["b"], ["a", "b"])["hd95", "macro"] == "left out: hard, undefined in a fit"
    assert math.isnan(made.compared(["a"], ["b"])["hd95", "hard"].difference.value)


def test_a_false_alarm_counts_for_an_arm_alone_and_is_named_where_it_cannot_be_paired() -> None:
    """No true mask: one arm is silent (undefined), the other raises a false alarm (Dice 0)."""
    made = of_cases({"silent": {("dice", "organ"): [0.8] * 9 + [NAN]}, "alarm": {("dice", "organ"): [0.8] * 9 + [0.0]}})
    alone = made.scores([["silent", "alarm"]])
    assert alone["alarm"]["dice", "organ"].value == pytest.approx(0.72)
    pair = made.compared(["silent"], ["alarm"])["dice", "organ"]
    assert pair.difference.value == pytest.approx(0.0)
    assert pair.note == "left out: 1 of 10 cases, undefined in the first (1) or second (0)"


def test_equal_cases_without_gaps_have_no_note() -> None:
    made = of_cases({"a": {("dice", "organ"): [0.5] * 6}, "b": {("dice", "organ"): [0.6] * 6}})
    assert made.left_out(["a"], ["a", "b"]) == {}
    assert made.compared(["a"], ["b"])["dice", "organ"].note == ""
