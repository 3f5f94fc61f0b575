"""What frozen features contain: a logistic and a ridge probe with a penalty chosen by validation, and nearest neighbours."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np

from medssl.finetune import scoring

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
INVERSE_RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
ABSENT = -100.0
"""Bias of a class that is absent from the training subset: its probability is 0."""


@dataclass(frozen=True)
class Probe:
    """A linear head on raw features: `features @ weight.T + bias` are logits."""

    weight: np.ndarray
    bias: np.ndarray
    inverse_penalty: float
    score: float

    def probabilities(self, features: np.ndarray, *, multilabel: bool) -> np.ndarray:
        """Class probabilities `(n, classes)` of features `(n, d)`."""
        logits = features.astype(np.float64) @ self.weight.T + self.bias
        return sigmoid(logits) if multilabel else softmax(logits)


def linear_probe(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    *,
    multilabel: bool = False,
    balanced: bool = False,
    inverse_penalties: tuple[float, ...] = INVERSE_PENALTIES,
) -> Probe:
    """Logistic regression (scikit-learn, lbfgs) on standardised features; C with the best validation score, then log loss.

    Args:
        train: features `(n, d)` and 0/1 targets `(n, classes)`.
        val: the same of the validation cases; without cases C = 0.01.
        multilabel: one binary regression per class instead of one multinomial.
        balanced: weight cases inversely to their class's frequency.
        inverse_penalties: the values of C tried, the same for every starting point.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import ThreadpoolController

    (mean, deviation), targets = scale_of(train[0]), train[1]
    scaled = (train[0].astype(np.float64) - mean) / deviation
    threads = ThreadpoolController()
    best: tuple[tuple[float, float], Probe] | None = None
    columns = [targets[:, k] for k in range(targets.shape[1])] if multilabel else [targets.argmax(axis=1)]
    models = [LogisticRegression(max_iter=300, warm_start=True, class_weight="balanced" if balanced else None) for _ in columns]
    for penalty in sorted(inverse_penalties) if len(val[0]) else (1e-2,):
        weight, bias = np.zeros((targets.shape[1], scaled.shape[1])), np.full(targets.shape[1], ABSENT)
        for column, (model, wanted) in enumerate(zip(models, columns, strict=True)):
            present = np.unique(wanted)
            if len(present) == 1:
                bias[column if multilabel else present[0]] = -ABSENT * (2 * float(present[0]) - 1) if multilabel else 0.0
                continue
            # the matrices are small: one thread is faster than two that wait for each other
            with warnings.catch_warnings(), threads.limit(limits=1):
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.set_params(C=penalty).fit(scaled, wanted)
            if multilabel:
                weight[column], bias[column] = model.coef_[0], model.intercept_[0]
            elif len(present) == 2:
                weight[present], bias[present] = (
                    np.outer([-0.5, 0.5], model.coef_[0]),
                    model.intercept_[0] * np.array([-0.5, 0.5]),
                )
            else:
                weight[present], bias[present] = model.coef_, model.intercept_
        raw = weight / deviation
        probe = Probe(raw, bias - raw @ mean, penalty, float("nan"))
        if not len(val[0]):
            return probe
        probabilities = probe.probabilities(val[0], multilabel=multilabel)
        score = scoring.score(probabilities, val[1])
        rank = (score, -scoring.log_loss(probabilities, val[1]))
        if best is None or rank > best[0]:
            best = (rank, Probe(probe.weight, probe.bias, penalty, score))
    if best is None:
        raise ValueError("inverse_penalties is empty")
    return best[1]


@dataclass(frozen=True)
class Line:
    """A linear predictor of one number from raw features: `features @ weight + bias`."""

    weight: np.ndarray
    bias: float
    inverse_penalty: float
    score: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Numbers `(n,)` of features `(n, d)`."""
        values: np.ndarray = features.astype(np.float64) @ self.weight + self.bias
        return values


def ridge_probe(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    *,
    inverse_penalties: tuple[float, ...] = INVERSE_RIDGES,
) -> Line:
    """Ridge regression (scikit-learn) on standardised features and values; C with the smallest validation error.

    C is as in `linear_probe`: the squared errors count C times, against half the squared weights.

    Args:
        train: features `(n, d)` and values `(n,)`.
        val: the same of the validation cases; without cases C = 0.01.
        inverse_penalties: the values of C tried, the same for every starting point.
    """
    from sklearn.linear_model import Ridge
    from threadpoolctl import ThreadpoolController

    mean, deviation = scale_of(train[0])
    scaled = (train[0].astype(np.float64) - mean) / deviation
    centre, spread = centre_of(train[1])
    threads = ThreadpoolController()
    found: list[Line] = []
    for inverse in sorted(inverse_penalties) if len(val[0]) else (1e-2,):
        with threads.limit(limits=1):
            model = Ridge(alpha=1 / inverse).fit(scaled, (train[1] - centre) / spread)
        raw = spread * np.asarray(model.coef_) / deviation
        line = Line(raw, float(spread * model.intercept_ + centre - raw @ mean), inverse, float("nan"))
        found.append(replace(line, score=scoring.error_score(line(val[0]), val[1])))
    return max(found, key=lambda line: line.score) if len(val[0]) else found[0]


def scale_of(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature `(n, d)`; infinite for one that is constant, which carries no information."""
    whole = features.astype(np.float64)
    mean, deviation = whole.mean(axis=0), whole.std(axis=0)
    deviation[deviation < 1e-8 * max(1.0, float(np.abs(whole).max()))] = np.inf
    return mean, deviation


def centre_of(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of values `(n,)`; 1 for values that are all equal."""
    spread = float(values.std())
    return float(values.mean()), spread if spread > 1e-12 * max(1.0, float(np.abs(values).max())) else 1.0


def nearest_neighbours(
    train: tuple[np.ndarray, np.ndarray], features: np.ndarray, *, neighbours: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """Means of the targets `(n, columns)` of the nearest training cases by cosine, weighted by exp(cosine / temperature).

    Of 0/1 targets they are shares of classes.

    Source: Wu et al., arXiv 1805.01978, §3.4 (k and temperature of its weighted vote).
    """
    from sklearn.neighbors import NearestNeighbors

    known, asked = unit_length(train[0]), unit_length(features)
    index = NearestNeighbors(n_neighbors=min(neighbours, len(known)), algorithm="brute").fit(known)
    distance, nearest = index.kneighbors(asked)
    weight = np.exp((1 - distance**2 / 2 - 1) / temperature)
    votes = np.einsum("nk,nkc->nc", weight, train[1][nearest].astype(np.float64))
    return votes / weight.sum(axis=1, keepdims=True)


def unit_length(features: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; rows of zeros stay."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits))
