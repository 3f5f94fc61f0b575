"""Validation scores that choose among steps and penalties; the test scores are evaluate's business."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


def macro_auc(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean one-vs-rest area under the ROC curve over the classes that have positives and negatives, else minus the log loss.

    Args:
        probabilities: `(n, classes)`.
        targets: 0/1, `(n, classes)`.

    Returns:
        NaN without cases.
    """
    if len(targets) == 0:
        return float("nan")
    areas = [auc(p, t) for p, t in zip(probabilities.T, targets.T, strict=True) if 0 < t.sum() < len(t)]
    if areas:
        return float(np.mean(areas))
    return -log_loss(probabilities, targets)


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
