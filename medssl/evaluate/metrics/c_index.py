"""Harrell's C-index."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.evaluate.risks import Followed
from medssl.evaluate.sample import ALL

PREDICTS = "risks"
BETTER = "higher"
LIMITS = (0, 1)
TITLE = "C-index"
HEADLINE = 5


def c_index(sample: Followed) -> dict[str, Float64[np.ndarray, "r"]]:
    """Of pairs in which one case is known to have had the event first, the share in which it has the higher risk; ties half.

    It depends on how long cases were followed: with much censoring it is optimistic.

    Source: Harrell et al., JAMA 247:2543 (1982); Uno et al., Stat Med 30:1105 (2011), on censoring.
    """
    return {ALL: sample.share_in_order(sample.events, sample.known_later)}
