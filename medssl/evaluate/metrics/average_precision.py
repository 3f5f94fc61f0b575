"""Average precision."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.evaluate.sample import Sample, divide

PREDICTS = "classes"
BETTER = "higher"
LIMITS = (0, 1)
TITLE = "Average precision"


def average_precision(sample: Sample) -> dict[str, Float64[np.ndarray, "r"]]:
    """Precision averaged over the steps of recall, of each class against the rest, and its mean over classes.

    Source: the step-wise sum (no interpolation), as in Davis and Goadrich, ICML 2006.
    """
    values = {}
    for index in sample.scored:
        hits, false_alarms = sample.curve(index)
        precision = hits[:, 1:] / (hits[:, 1:] + false_alarms[:, 1:]).clip(min=1e-300)
        gained = ((hits[:, 1:] - hits[:, :-1]) * precision).sum(axis=1)
        values[index] = divide(gained, hits[:, -1])
    return sample.by_class(values)
