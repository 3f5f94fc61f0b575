"""ROC and precision-recall curves are those of scikit-learn, averaged over fits and classes, with bands that hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_predictions import predictions
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve
from test_evaluate_run import evaluated, finetuned

from medssl.artefacts.scores import OPERATING
from medssl.core.rng import rng
from medssl.evaluate.operating import GRID, precisions, sensitivities
from medssl.evaluate.sample import Sample, Truth


def sample_of(seed: int, *, levels: int | None, num: int = 60) -> tuple[Sample, np.ndarray, np.ndarray]:
    """Scores of two classes, of few levels so that there are ties, and whole weights; with the cases that these stand for."""
    random = rng(seed, "operating")
    is_class = random.random(num) < 0.4
    scores = random.normal(size=num) + is_class
    scores = np.round(scores * levels) / levels if levels else scores
    weights = random.integers(0, 4, num)
    weights[np.flatnonzero(is_class)[0]] = weights[np.flatnonzero(~is_class)[0]] = 1
    truth = Truth(np.stack([~is_class, is_class], axis=1), ["no", "yes"], positive=1)
    sample = Sample(truth, np.stack([-scores, scores], axis=1), weights[None].astype(float))
    return sample, np.repeat(is_class, weights), np.repeat(scores, weights)


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("seed", range(4))
def test_both_curves_are_those_of_scikit_learn(seed: int, levels: int | None) -> None:
    sample, is_class, scores = sample_of(seed, levels=levels)
    false_alarms, hits, _ = roc_curve(is_class, scores, drop_intermediate=False)
    assert sensitivities(sample, 1)[0] == pytest.approx(np.interp(GRID, false_alarms, hits), abs=1e-9)
    precision, recall, _ = precision_recall_curve(is_class, scores)
    best = [precision[:-1][recall[:-1] >= x - 1e-9][-1] for x in GRID]
    assert precisions(sample, 1)[0] == pytest.approx(best, abs=1e-9)


def test_a_draw_without_a_case_of_the_class_has_no_curve() -> None:
    truth = Truth(np.array([[True, False], [False, True]]), ["no", "yes"], positive=1)
    sample = Sample(truth, np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    assert np.isfinite(sensitivities(sample, 1)).all(axis=1).tolist() == [False, False, True]
    assert np.isfinite(precisions(sample, 1)).all(axis=1).tolist() == [False, True, True]


def test_the_table_is_of_the_most_labels_and_bands_hold_the_mean_over_fits(tmp_path: Path) -> None:
    made = predictions(num_cases=60, fractions=(0.5, 1.0), modes=("full",), seeds=(0, 1))
    table = OPERATING.read(evaluated(tmp_path, finetuned(tmp_path, made)) / "operating.parquet")
    assert set(table["fraction"]) == {1.0} and set(table["class"]) == {"kidney", "liver", "spleen", "macro"}
    assert ((table["low"] <= table["y"]) & (table["y"] <= table["high"])).all()
    assert ((table["high"] - table["low"]).groupby(table["curve"]).max() > 0.05).all()
    keys = ["init", "mode", "curve", "x"]
    of_classes = table[table["class"] != "macro"].groupby(keys)["y"].mean()
    assert table[table["class"] == "macro"].set_index(keys)["y"].sort_index().to_numpy() == pytest.approx(of_classes.to_numpy())
    part = made[(made["init"] == "scratch-resnet18") & (made["fraction"] == 1.0) & (made["split"] == "test")]
    areas = [roc_auc_score(one["target"] == "liver", one["prob_liver"]) for _, one in part.groupby("fit_id")]
    curve = table[(table["init"] == "scratch-resnet18") & (table["class"] == "liver") & (table["curve"] == "roc")]
    assert np.trapezoid(curve["y"], curve["x"]) == pytest.approx(np.mean(areas), abs=0.02)
    assert curve["num_fits"].unique().tolist() == [2]
