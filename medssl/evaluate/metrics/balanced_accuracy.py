"""Balanced accuracy."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.evaluate.sample import ALL, Sample, divide

PREDICTS = "classes"
BETTER = "higher"
LIMITS = (0, 1)
TITLE = "Balanced accuracy"
OVER_CLASSES = True


def balanced_accuracy(sample: Sample) -> dict[str, Float64[np.ndarray, "r"]]:
    """Mean recall of the classes that have test cases; with several labels per case, also of having and of lacking each.

    Source: Brodersen et al., ICPR 2010, doi:10.1109/ICPR.2010.764.
    """
    recalls = []
    for index in np.flatnonzero(sample.targets.any(axis=0)):
        true, called = sample.targets[:, index], sample.called[:, index]
        recalls.append(divide(sample.total(true & called), sample.total(true)))
        if sample.truth.multilabel and not true.all():
            recalls.append(divide(sample.total(~true & ~called), sample.total(~true)))
    return {ALL: np.mean(recalls, axis=0)}
