"""F1 score."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.evaluate.sample import Sample, divide

PREDICTS = "classes"
BETTER = "higher"
LIMITS = (0, 1)
TITLE = "F1"


def f1(sample: Sample) -> dict[str, Float64[np.ndarray, "r"]]:
    """Harmonic mean of precision and recall: of the positive class (named in the row) or of each, and over classes.

    Source: van Rijsbergen, Information Retrieval (1979), ch. 7.
    """
    values = {}
    for index in range(len(sample.truth.classes)):
        true, called = sample.targets[:, index], sample.called[:, index]
        values[index] = divide(2 * sample.total(true & called), sample.total(true) + sample.total(called))
    return sample.by_class(values)
