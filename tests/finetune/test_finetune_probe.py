"""Probes against scikit-learn by hand and slow references."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medssl.finetune.probe import linear_probe, nearest_neighbours


def features(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = np.arange(count) % classes
    return generator.normal(0, 1, (count, 12)) + 0.7 * np.eye(12)[truth] + 5, np.eye(classes, dtype=np.uint8)[truth]


@pytest.mark.parametrize("classes", [2, 4])
def test_probe_equals_a_standardised_logistic_regression(classes: int) -> None:
    train, val = features(80, classes, 0), features(40, classes, 1)
    probe = linear_probe(train, val, inverse_penalties=(0.1,))
    by_hand = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    expected = by_hand.fit(train[0], train[1].argmax(1)).predict_proba(val[0])
    assert np.allclose(probe.probabilities(val[0], multilabel=False), expected, atol=2e-4)


def test_penalty_is_chosen_on_validation_cases() -> None:
    train, val = features(60, 3, 0), features(60, 3, 1)
    chosen = linear_probe(train, val)
    scores = {c: linear_probe(train, val, inverse_penalties=(c,)).score for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)}
    assert chosen.score == pytest.approx(max(scores.values()), abs=1e-3)


def test_without_validation_cases_the_penalty_is_fixed() -> None:
    train = features(60, 3, 0)
    probe = linear_probe(train, (train[0][:0], train[1][:0]))
    assert probe.inverse_penalty == 1e-2 and np.isnan(probe.score)


def test_a_class_that_the_subset_lacks_gets_no_probability() -> None:
    x, y = features(60, 3, 0)
    held = y[:, 2] == 0
    probabilities = linear_probe((x[held], y[held]), (x, y)).probabilities(x, multilabel=False)
    assert probabilities[:, 2].max() < 1e-6
    assert np.allclose(probabilities.sum(1), 1)


def test_constant_features_do_no_harm() -> None:
    x, y = features(60, 3, 0)
    x[:, 5] = 3.0
    probe = linear_probe((x, y), (x, y))
    assert np.all(probe.weight[:, 5] == 0)
    assert np.isfinite(probe.probabilities(x + 100, multilabel=False)).all()


def test_several_classes_a_case_are_separate_regressions() -> None:
    x, _ = features(80, 3, 0)
    y = np.stack([x[:, 0] > 5, x[:, 1] > 5, np.zeros(80), np.ones(80)], axis=1).astype(np.uint8)
    probabilities = linear_probe((x, y), (x, y), multilabel=True).probabilities(x, multilabel=True)
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=1.0)).fit(x, y[:, 0]).predict_proba(x)[:, 1]
    assert np.allclose(probabilities[:, 0], expected, atol=1e-2)
    assert probabilities[:, 2].max() < 1e-6 and probabilities[:, 3].min() > 1 - 1e-6


def test_neighbours_equal_a_slow_vote() -> None:
    (known, y), (asked, _) = features(40, 3, 0), features(7, 3, 1)
    got = nearest_neighbours((known, y), asked, neighbours=5, temperature=0.1)
    for row, votes in zip(asked, got, strict=True):
        cosine = known @ row / np.linalg.norm(known, axis=1) / np.linalg.norm(row)
        near = np.argsort(-cosine)[:5]
        weight = np.exp(cosine[near] / 0.1)
        assert np.allclose(votes, weight @ y[near] / weight.sum(), atol=1e-6)
