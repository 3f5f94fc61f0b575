"""Segmentation metrics equal MONAI's; empty masks are counted, never hidden."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from medssl.core.errors import CorruptArtefactError
from medssl.core.rng import rng
from medssl.evaluate.intervals import unit_weights
from medssl.evaluate.metrics.dice import dice
from medssl.evaluate.metrics.hd95 import hd95
from medssl.evaluate.metrics.iou import iou
from medssl.evaluate.metrics.nsd import nsd
from medssl.evaluate.metrics.volume_error import volume_error
from medssl.evaluate.segmentation import empty_counts, score_case, score_fit
from medssl.evaluate.surface import pair

METRICS = {"dice": dice, "iou": iou, "hd95": hd95, "nsd": nsd, "volume_error": volume_error}


def blob(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return ndimage.gaussian_filter(rng(seed, "blob").normal(size=shape), 2.0) > 0.05


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.8, 0.7, 2.5)])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_monai(seed: int, spacing_mm: tuple[float, float, float]) -> None:
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice

    shape = (18, 20, 12)
    prediction, target = blob(seed, shape), blob(seed, shape) ^ blob(seed + 50, shape) & (rng(seed, "flip").random(shape) < 0.1)
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


def test_equal_masks_are_perfect_and_touching_the_border_is_no_problem() -> None:
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
    cases = pd.DataFrame({"class": "organ", "dice": values})
    weights = unit_weights(0, "test", 6, 50)
    found = score_fit(cases, ["dice"], weights, np.arange(6), 50)["dice", "organ"]
    assert found.value == pytest.approx(np.nanmean(values))
    for r in range(50):
        counts = weights[1 + r]
        known = np.isfinite(values)
        assert found.bootstrap[r] == pytest.approx((counts * np.nan_to_num(values))[known].sum() / counts[known].sum())


def test_empty_masks_are_counted() -> None:
    place = {"arm": "a", "mode": "full", "fraction": 1.0, "class": "organ"}
    kinds = ["neither", "neither", "both", "prediction", "target"]
    counts = empty_counts(pd.DataFrame([{**place, "empty": kind} for kind in kinds]))
    row = counts.iloc[0]
    assert (row["both_hold"], row["both_empty"], row["missed"], row["false_alarm"]) == (2, 1, 1, 1)
