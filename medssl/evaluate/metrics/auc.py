"""Area under the ROC curve."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.evaluate.sample import Sample, divide

PREDICTS = "classes"
BETTER = "higher"
LIMITS = (0, 1)
TITLE = "AUC"
HEADLINE = 1
PAIRED_TEST = "delong"


def auc(sample: Sample) -> dict[str, Float64[np.ndarray, "r"]]:
    """Area under the ROC curve of each class against the rest, ties counted half, and its mean over classes.

    Source: Hanley and McNeil, Radiology 143:29 (1982); Fawcett, Pattern Recognition Letters 27:861 (2006), §8.
    """
    values = {}
    for index in sample.scored:
        hits, false_alarms = sample.curve(index)
        steps = false_alarms[:, 1:] - false_alarms[:, :-1]
        area = (steps * (hits[:, 1:] + hits[:, :-1])).sum(axis=1) / 2
        values[index] = divide(area, hits[:, -1] * false_alarms[:, -1])
    return sample.by_class(values)
