"""Validation scores for choosing steps and penalties; stage evaluate computes the test scores."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

MACRO_AUC, NEGATIVE_LOG_LOSS = "macro AUC", "negative log loss"


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
