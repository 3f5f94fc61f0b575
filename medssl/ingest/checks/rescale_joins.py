"""Whether slices with different rescales join."""

from __future__ import annotations

import numpy as np

from medssl.ingest.check import Finding, Series

APPLIES_TO = ("CT",)
CODES = ("mixed_rescale",)


def rescale_joins(series: Series, *, times_usual: float = 4.0, jump_hu: float = 150.0) -> Finding | None:
    """If the rescale of a CT changes from slice to slice, the values must be continuous across the change.

    A missing or wrong rescale in one slice makes a jump of hundreds of HU between neighbours.
    """
    if len(set(series.rescales)) == 1 or series.values.shape[2] < 2:
        return None
    steps = np.abs(np.diff(series.values, axis=2)).mean(axis=(0, 1))
    usual = float(np.median(steps))
    changes = [k for k in range(len(steps)) if series.rescales[k] != series.rescales[k + 1]]
    worst = max(changes, key=lambda k: steps[k])
    if steps[worst] > times_usual * usual + jump_hu:
        return Finding(
            "mixed_rescale", f"slices {worst + 1} and {worst + 2} differ by {steps[worst]:.0f} HU, others by {usual:.0f}"
        )
    return None
