"""Class means that move to the cases which they are to predict, by optimal transport; and class means that stay.

A prediction by moved means is transductive: it depends on which other cases are predicted with it. By means that stay it is
inductive: it depends on the labelled cases alone.

Source: Poulakakis-Daktylidis and Jamali-Rad, "BECLR", arXiv 2402.02444, §4.2 (OpTA). There the classes of the predicted cases are
equally frequent. Here their shares are estimated, and the transport may deviate from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Head = Literal["softmax", "logistic"]
EPSILONS = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Strengths of the transport's entropy, relative to the largest distance, among which validation chooses. Features that differ
little relative to the largest distance, such as those of random weights, need a small one."""
DEFAULT_EPSILON = 0.05
LARGEST_LOG = 700.0
"""exp of more is infinite"""
TOLERANCE = 1e-8
"""of a plan's shares of classes"""
FEW_SHOTS, MANY_PASSES = 2, 5
"""Up to so many labelled cases per class the means move so often; with more they move once."""


@dataclass(frozen=True)
class Moving:
    """How class means move.

    Args:
        rounds: of estimating the shares of the classes before each move; 0 keeps the given ones.
        rho_class: how strongly the transport holds to the shares; None: exactly.
        passes: how often the means move; None: five times with up to two labelled cases per class, else once.
        keep: share of its first place in the last one of a mean, unless it is of a single case.
    """

    rounds: int = 10
    rho_class: float | None = 1.0
    passes: int | None = None
    keep: float = 0.3


@dataclass(frozen=True)
class Means:
    """A mean for each class.

    Args:
        places: of the means.
        num_cases: labelled cases of each.
        prior: share of each class, sum 1.
        scale: squared distance that counts as 1 where no others are predicted: the largest of a labelled case from a mean.
    """

    places: Float[np.ndarray, "classes d"]
    num_cases: Float[np.ndarray, "classes"]
    prior: Float[np.ndarray, "classes"]
    scale: float

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"], targets: np.ndarray, prior: Float[np.ndarray, "classes"]) -> Means:
        """The means of labelled cases, of which 0/1 targets `(n, classes)` name one class each, every class with a case."""
        num_cases = targets.sum(axis=0).astype(np.float64)
        places = targets.T.astype(np.float64) @ features / num_cases[:, None]
        return cls(places, num_cases, prior / prior.sum(), float(squared_distances(places, features).max()) or 1.0)

    def stay(self, queries: Float[np.ndarray, "q d"], epsilon: float, head: Head = "softmax") -> Float[np.ndarray, "q classes"]:
        """Probabilities of the classes of cases, each by itself."""
        return _answer(self.places, queries, squared_distances(self.places, queries) / self.scale, self.prior, epsilon, head)

    def move(
        self, queries: Float[np.ndarray, "q d"], epsilon: float, how: Moving, head: Head = "softmax"
    ) -> tuple[Float[np.ndarray, "q classes"], Float[np.ndarray, "classes"]]:
        """Probabilities of the classes of cases that are predicted together, and the estimated shares of the classes.

        With fewer cases than classes some classes have none to move to, so that no mean moves.
        """
        if len(queries) < len(self.places):
            return self.stay(queries, epsilon, head), self.prior
        places, prior = moved(self, queries, epsilon, how)
        costs = relative_costs(places, queries)
        prior = shares(costs, prior, epsilon, how.rounds)
        return _answer(places, queries, costs, prior, epsilon, head), prior


def standardised(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Each vector with mean 0 and standard deviation 1 over its entries, float64; a constant vector becomes 0."""
    centred = features.astype(np.float64) - features.mean(axis=1, keepdims=True, dtype=np.float64)
    deviation = centred.std(axis=1, keepdims=True)
    return centred / np.where(deviation > 0, deviation, 1)


def smoothed_shares(num_cases: Float[np.ndarray, "classes"]) -> Float[np.ndarray, "classes"]:
    """Shares of classes by their labelled cases, as if each class had one more."""
    return (num_cases + 1) / (num_cases + 1).sum()


def moved(
    means: Means, queries: Float[np.ndarray, "q d"], epsilon: float, how: Moving
) -> tuple[Float[np.ndarray, "classes d"], Float[np.ndarray, "classes"]]:
    """The places of the means after their moves, and the shares of the classes that the last move used.

    In a move each mean goes to the mean of the cases that are transported to it.
    """
    few = means.num_cases.mean() <= FEW_SHOTS
    places, prior = means.places, means.prior
    for _ in range((MANY_PASSES if few else 1) if how.passes is None else how.passes):
        costs = relative_costs(places, queries)
        prior = shares(costs, prior, epsilon, how.rounds)
        plan = transport(costs, prior, epsilon, how.rho_class)
        places = (plan / plan.sum(axis=0)).T @ queries
    keep = np.where(means.num_cases > 1, how.keep, 0.0)[:, None]
    return keep * means.places + (1 - keep) * places, prior


def squared_distances(
    places: Float[np.ndarray, "classes d"], features: Float[np.ndarray, "q d"]
) -> Float[np.ndarray, "q classes"]:
    """Squared distances of cases from means."""
    products = features @ places.T
    return np.maximum((features**2).sum(axis=1)[:, None] + (places**2).sum(axis=1) - 2 * products, 0)


def relative_costs(places: Float[np.ndarray, "classes d"], queries: Float[np.ndarray, "q d"]) -> Float[np.ndarray, "q classes"]:
    """Squared distances, the largest of which is 1."""
    found = squared_distances(places, queries)
    return found / (found.max() or 1.0)


def shares(
    costs: Float[np.ndarray, "q classes"], prior: Float[np.ndarray, "classes"], epsilon: float, rounds: int
) -> Float[np.ndarray, "classes"]:
    """Shares of the classes among cases, by damped rounds of expectation and maximisation; none falls below half a case."""
    for _ in range(rounds):
        prior = np.maximum((prior + posteriors(costs, prior, epsilon).mean(axis=0)) / 2, 0.5 / len(costs))
        prior = prior / prior.sum()
    return prior


def posteriors(
    costs: Float[np.ndarray, "q classes"], prior: Float[np.ndarray, "classes"], epsilon: float
) -> Float[np.ndarray, "q classes"]:
    """Probabilities of the classes of each case."""
    weights = prior * np.exp(_log_kernel(costs, epsilon))
    return weights / weights.sum(axis=1, keepdims=True)


def transport(
    costs: Float[np.ndarray, "q classes"], prior: Float[np.ndarray, "classes"], epsilon: float, rho_class: float | None
) -> Float[np.ndarray, "q classes"]:
    """The entropic transport plan: rows sum to 1 / q, columns to the shares of the classes, or near them with `rho_class`.

    It is found by its dual, which has one variable per class: the logarithm of a factor of the column.

    Source: Chizat et al., "Scaling algorithms for unbalanced optimal transport problems", arXiv 1607.05816, §2.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp, softmax

    logs, slack = _log_kernel(costs, epsilon), 0.0 if rho_class is None else epsilon / rho_class

    def held(factors: np.ndarray) -> np.ndarray:
        wanted: np.ndarray = prior * np.exp(np.minimum(-slack * factors, LARGEST_LOG))
        return wanted

    def dual(factors: np.ndarray) -> tuple[float, np.ndarray]:
        demand = held(factors).sum() / slack if slack else -float(prior @ factors)
        slope = softmax(logs + factors, axis=1).mean(axis=0) - held(factors)
        return float(logsumexp(logs + factors, axis=1).mean() + demand), slope

    def curvature(factors: np.ndarray) -> np.ndarray:
        plan = softmax(logs + factors, axis=1)
        bent: np.ndarray = np.diag(plan.mean(axis=0) + slack * held(factors)) - plan.T @ plan / len(plan)
        return bent

    found = minimize(dual, np.zeros_like(prior), jac=True, hess=curvature, method="trust-exact", options={"gtol": TOLERANCE})
    plan: np.ndarray = softmax(logs + found.x, axis=1) / len(costs)
    return plan


def _log_kernel(costs: Float[np.ndarray, "q classes"], epsilon: float) -> Float[np.ndarray, "q classes"]:
    """-costs / epsilon, in each row up to a summand: its largest entry is 0."""
    found: np.ndarray = -(costs - costs.min(axis=1, keepdims=True)) / epsilon
    return found


def _answer(
    places: Float[np.ndarray, "classes d"],
    queries: Float[np.ndarray, "q d"],
    costs: Float[np.ndarray, "q classes"],
    prior: Float[np.ndarray, "classes"],
    epsilon: float,
    head: Head,
) -> Float[np.ndarray, "q classes"]:
    """Probabilities by distance and shares, or by a logistic regression on the means alone."""
    if head == "softmax" or len(places) == 1:
        return posteriors(costs, prior, epsilon)
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(places, np.arange(len(places)))
    return model.predict_proba(queries)
