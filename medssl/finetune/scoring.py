"""Validation scores for choosing steps and penalties; stage evaluate computes the test scores."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

MACRO_AUC, NEGATIVE_LOG_LOSS = "macro AUC", "negative log loss"
NEGATIVE_ERROR = "negative mean absolute error"
CONCORDANCE = "Harrell's C"


def measure(targets: np.ndarray) -> str | None:
    """The name of what `score` measures for 0/1 targets `(n, classes)`: an AUC needs a class with positives and negatives.

    None without cases.
    """
    if len(targets) == 0:
        return None
    return MACRO_AUC if any(0 < target.sum() < len(target) for target in targets.T) else NEGATIVE_LOG_LOSS


def score(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The score that `measure` names, of probabilities and 0/1 targets `(n, classes)`; higher is better, NaN without cases."""
    name = measure(targets)
    if name is None:
        return float("nan")
    return macro_auc(probabilities, targets) if name == MACRO_AUC else -log_loss(probabilities, targets)


def error_score(values: np.ndarray, targets: np.ndarray) -> float:
    """Minus the mean distance of values `(n,)` from targets `(n,)`, in their unit; NaN without cases."""
    return -float(np.abs(values - targets).mean()) if len(targets) else float("nan")


def can_be_ordered(followed: np.ndarray) -> bool:
    """Whether of some two cases, by time and event `(n, 2)`, it is known which had the event first."""
    times, events = followed.T
    happened = times[events > 0]
    return len(happened) > 0 and bool((times > happened.min()).any() or ((times == happened.min()) & (events == 0)).any())


def order_score(risks: np.ndarray, followed: np.ndarray) -> float:
    """Of pairs in which one case is known to have had the event first, the share in which it has the higher risk; ties half.

    NaN without such a pair.

    Args:
        risks: `(n,)`.
        followed: time and event `(n, 2)`; an event comes before a censoring at the same time.

    Source: Harrell et al., JAMA 247:2543 (1982).
    """
    right, pairs = 0.0, 0
    for place in np.flatnonzero(followed[:, 1] > 0):
        later = (followed[:, 0] > followed[place, 0]) | ((followed[:, 0] == followed[place, 0]) & (followed[:, 1] == 0))
        right += float((risks[place] > risks[later]).sum() + 0.5 * (risks[place] == risks[later]).sum())
        pairs += int(later.sum())
    return right / pairs if pairs else float("nan")


def macro_auc(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean one-vs-rest area under the ROC curve over the classes that have positives and negatives.

    Args:
        probabilities: `(n, classes)`.
        targets: 0/1, `(n, classes)`; at least one class has both.
    """
    pairs = zip(probabilities.T, targets.T, strict=True)
    return float(np.mean([auc(values, target) for values, target in pairs if 0 < target.sum() < len(target)]))


def auc(values: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve by ranks, ties counted half.

    Source: Hanley and McNeil, Radiology 143:29 (1982).
    """
    positive = positive.astype(bool)
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(values)
    return float((ranks[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def log_loss(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean cross-entropy of 0/1 targets `(n, classes)` under probabilities `(n, classes)`, summed over positives."""
    return float(-(np.log(np.clip(probabilities, 1e-7, 1)) * targets).sum(axis=1).mean())
