"""Time-dependent area under the ROC curve."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from medssl.core.bounds import Times
from medssl.evaluate.risks import Followed, not_censored
from medssl.evaluate.sample import ALL, MACRO, divide

PREDICTS = "risks"
BETTER = "higher"
LIMITS = (0, 1)
TITLE = "Time-dependent AUC"
FULL_TITLE = "Time-dependent AUC (t = {horizons})"


def dynamic_auc(sample: Followed, *, horizons: Times = ("median",)) -> dict[str, Float64[np.ndarray, "r"]]:
    """How well risks separate cases with an event up to a time from those known to be free of it then (cumulative, dynamic).

    Cases that were censored before the time are neither; the others with an event count for them, by the inverse of the
    probability not to be censored before their own time.

    Options:
        horizons: times, in the unit of the labels; `median`: the median time of the events among the test cases. Of several
            each is a row, beside their mean.

    Source: Uno et al., J Am Stat Assoc 102:527 (2007); Hung and Chiang, Can J Stat 38:8 (2010), eq. 6.
    """
    known = not_censored(sample.times, sample.events, sample.weights)
    inverse = np.nan_to_num(divide(sample.weights, known))
    found = {}
    for horizon in horizons:
        time = sample.median_time if isinstance(horizon, str) else horizon
        cases = sample.events & (sample.times <= time)
        name = f"t = {horizon}" if isinstance(horizon, str) else f"t = {horizon:g}"
        found[name] = sample.share_in_order(cases, sample.free_at(time), inverse)
    if len(found) == 1:
        return {ALL: next(iter(found.values()))}
    return found | {MACRO: np.mean(list(found.values()), axis=0)}
