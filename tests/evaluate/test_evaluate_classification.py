"""Classification metrics equal scikit-learn's, also under the weights of a bootstrap replicate."""

from __future__ import annotations

import numpy as np
import pytest
from made_predictions import predictions
from sklearn import metrics as reference

from medssl.core import plugins
from medssl.core.rng import rng
from medssl.evaluate.classification import Probabilities, rarer_units
from medssl.evaluate.intervals import unit_weights
from medssl.evaluate.predictions import only_test, probabilities_of, truth_of
from medssl.evaluate.sample import Sample, Truth
from medssl.evaluate.sampled import scores_of_fit

EXACT = {"rel": 0, "abs": 1e-9}


def metric(name: str):
    return plugins.find("metric", name).load()


def made(num_classes: int, seed: int, *, n: int = 70, digits: int = 2) -> Sample:
    """A sample with tied scores under ones and four replicates' counts; the positive class of two is the second."""
    random = rng(seed, "sample", num_classes)
    truth = random.integers(0, num_classes, n)
    logits = random.normal(size=(n, num_classes)) + 1.2 * np.eye(num_classes)[truth]
    values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if num_classes == 2:
        positive = values[:, 1].round(digits)
        values = np.stack([1 - positive, positive], axis=1)
    else:
        values = values.round(digits)
    weights = np.concatenate([np.ones((1, n)), random.multinomial(n, np.full(n, 1 / n), size=4)]).astype(float)
    classes = [f"class{i}" for i in range(num_classes)]
    return Sample(Truth(np.eye(num_classes, dtype=bool)[truth], classes, 1 if num_classes == 2 else None), values, weights)


def labels(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    return sample.targets.argmax(axis=1), sample.called.argmax(axis=1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_classes", [2, 4])
def test_ranking_metrics_equal_scikit_learn(num_classes: int, seed: int) -> None:
    sample = made(num_classes, seed)
    for name, truth in {"auc": reference.roc_auc_score, "average_precision": reference.average_precision_score}.items():
        found = metric(name)(sample)
        for r, weights in enumerate(sample.weights):
            by_class = {
                c: truth(sample.targets[:, i], sample.probabilities[:, i], sample_weight=weights)
                for i, c in enumerate(sample.truth.classes)
            }
            for c in found:
                expected = np.mean(list(by_class.values())) if c == "macro" else by_class[c]
                assert found[c][r] == pytest.approx(expected, **EXACT), (name, c)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_classes", [2, 4])
def test_threshold_metrics_equal_scikit_learn(num_classes: int, seed: int) -> None:
    sample = made(num_classes, seed)
    truth, called = labels(sample)
    for r, weights in enumerate(sample.weights):
        assert metric("accuracy")(sample)["all"][r] == pytest.approx(
            reference.accuracy_score(truth, called, sample_weight=weights), **EXACT
        )
        assert metric("balanced_accuracy")(sample)["all"][r] == pytest.approx(
            reference.balanced_accuracy_score(truth, called, sample_weight=weights), **EXACT
        )
        by_class = reference.f1_score(truth, called, average=None, sample_weight=weights)
        f1 = metric("f1")(sample)
        assert f1["macro"][r] == pytest.approx(by_class.mean(), **EXACT)
        for i in sample.scored:
            assert f1[sample.truth.classes[i]][r] == pytest.approx(by_class[i], **EXACT)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_brier_equals_scikit_learn(num_classes: int) -> None:
    sample = made(num_classes, 1)
    values = sample.probabilities / sample.probabilities.sum(axis=1, keepdims=True)
    sample = Sample(sample.truth, values, sample.weights)
    truth, _ = labels(sample)
    for r, weights in enumerate(sample.weights):
        scores = values[:, 1] if num_classes == 2 else values
        expected = reference.brier_score_loss(truth, scores, sample_weight=weights, labels=range(num_classes))
        assert metric("brier")(sample)["all"][r] == pytest.approx(expected, **EXACT)


def test_binary_rows_name_the_positive_class() -> None:
    sample = made(2, 0)
    assert set(metric("auc")(sample)) == {"class1"}
    assert set(metric("f1")(sample)) == {"class1", "macro"}


@pytest.mark.parametrize("specificity", [0.5, 0.8, 0.9, 1.0])
def test_sensitivity_is_the_best_of_the_allowed_points_of_the_roc_curve(specificity: float) -> None:
    sample = made(2, 2)
    for r, weights in enumerate(sample.weights):
        used = weights > 0
        fpr, tpr, _ = reference.roc_curve(
            sample.targets[used, 1], sample.probabilities[used, 1], sample_weight=weights[used], drop_intermediate=False
        )
        expected = tpr[1 - fpr >= specificity - 1e-9].max()
        found = metric("sensitivity_at_specificity")(sample, specificity=specificity)["class1"][r]
        assert found == pytest.approx(expected, **EXACT)


def test_calibration_error_equals_a_slow_reference() -> None:
    sample = made(4, 3)
    truth, called = labels(sample)
    confidence = sample.probabilities.max(axis=1)
    for r, weights in enumerate(sample.weights):
        expected = 0.0
        for b in range(15):
            inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
            if weights[inside].sum():
                right = np.average((truth == called)[inside], weights=weights[inside])
                stated = np.average(confidence[inside], weights=weights[inside])
                expected += weights[inside].sum() / weights.sum() * abs(right - stated)
        assert metric("calibration_error")(sample)["all"][r] == pytest.approx(expected, **EXACT)


def test_perfect_and_hopeless_predictions_reach_the_ends_of_the_scale() -> None:
    targets = np.eye(2, dtype=bool)[[0, 0, 1, 1]]
    truth, weights = Truth(targets, ["no", "yes"], 1), np.ones((1, 4))
    right, wrong = Sample(truth, targets.astype(float), weights), Sample(truth, 1.0 - targets, weights)
    for name in ("auc", "average_precision", "f1", "sensitivity_at_specificity"):
        assert metric(name)(right)["yes"][0] == 1.0
    assert metric("auc")(wrong)["yes"][0] == 0.0
    assert metric("brier")(wrong)["all"][0] == 1.0
    assert metric("calibration_error")(wrong)["all"][0] == 1.0


def test_a_class_without_cases_is_undefined_and_left_out_of_the_mean() -> None:
    targets = np.eye(3, dtype=bool)[[0, 0, 1, 1]]
    values = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1]])
    found = metric("auc")(Sample(Truth(targets, ["a", "b", "c"]), values, np.ones((1, 4))))
    assert np.isnan(found["c"][0])
    assert found["macro"][0] == pytest.approx((found["a"][0] + found["b"][0]) / 2)


def test_several_labels_a_case_equal_scikit_learn() -> None:
    random = rng(4, "several")
    targets = random.random((60, 3)) < 0.4
    values = np.clip(0.3 + 0.4 * targets + random.normal(0, 0.25, targets.shape), 0, 1)
    sample = Sample(Truth(targets, ["a", "b", "c"], None, True), values, np.ones((1, 60)))
    called = values >= 0.5
    assert metric("auc")(sample)["macro"][0] == pytest.approx(reference.roc_auc_score(targets, values), **EXACT)
    assert metric("f1")(sample)["macro"][0] == pytest.approx(reference.f1_score(targets, called, average="macro"), **EXACT)
    assert metric("accuracy")(sample)["all"][0] == pytest.approx(reference.accuracy_score(targets, called), **EXACT)
    expected = np.mean([reference.balanced_accuracy_score(targets[:, i], called[:, i]) for i in range(3)])
    assert metric("balanced_accuracy")(sample)["all"][0] == pytest.approx(expected, **EXACT)
    assert metric("brier")(sample)["all"][0] == pytest.approx(((values - targets) ** 2).mean(), **EXACT)
    assert 0 < metric("calibration_error")(sample)["all"][0] < 1


def test_a_label_that_all_cases_have_is_recalled_and_never_rejected() -> None:
    targets = np.array([[True, True], [True, False], [True, True]])
    values = np.array([[0.9, 0.9], [0.9, 0.1], [0.2, 0.9]])
    found = metric("balanced_accuracy")(Sample(Truth(targets, ["always", "some"], None, True), values, np.ones((1, 3))))
    assert found["all"][0] == pytest.approx(np.mean([2 / 3, 1.0, 1.0]))


def test_the_rarer_side_of_a_class_is_counted_in_units() -> None:
    targets = np.eye(3, dtype=bool)[[0, 0, 0, 1, 1, 2]]
    unit = np.array([0, 0, 1, 2, 2, 3])
    known = Truth(targets, ["a", "b", "c"])
    assert rarer_units(known, unit) == {"a": 2, "b": 1, "c": 1, "macro": 1}
    sampled = Probabilities(known, {"one": targets.astype(float)})
    made = scores_of_fit(sampled, "one", {n: metric(n) for n in ("auc", "accuracy", "balanced_accuracy")},
                         unit_weights(0, "u", 4, 20), unit, 20, ["balanced_accuracy"])  # fmt: skip
    assert made["auc", "a"].num_rarer == 2 and made["auc", "macro"].num_rarer == 1
    assert made["accuracy", "all"].num_rarer is None and made["balanced_accuracy", "all"].num_rarer == 1


def test_a_study_by_hand_gives_the_same_auc() -> None:
    table = predictions(num_cases=50)
    test = only_test(table)
    truth = truth_of(test, None)
    for fit, part in test.rows.items():
        values = probabilities_of(part, truth)
        found = metric("auc")(Sample(truth, values, np.ones((1, len(part)))))["macro"][0]
        by_hand = table[table["fit_id"] == fit]
        columns = [f"prob_{c}" for c in sorted(truth.classes)]
        expected = reference.roc_auc_score(by_hand["target"], by_hand[columns], multi_class="ovr", labels=sorted(truth.classes))
        assert found == pytest.approx(expected, **EXACT)
