"""The window of an array: the values that the network sees as 0 and as 1, one pair per channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.volume.intensity import Counts, above_minimum, percentiles_of


def is_of_percentiles(*, modality: str, kind: str, dtype: np.dtype) -> bool:
    """Whether a volume has its own window by percentiles: all but pictures of unsigned numbers, and CT."""
    return not (kind == "images" and dtype in (np.uint8, np.uint16)) and modality != "CT"


def window(
    counts: Counts,
    *,
    modality: str,
    kind: str,
    dtype: np.dtype,
    slope: float,
    intercept: float,
    window_hu: Sequence[Sequence[float]],
    percentiles: Sequence[float],
) -> tuple[list[float], list[float]]:
    """Low and high ends in value units, as many as the study has CT windows, so that all sources have the same channels.

    Unsigned images: the whole range of their type, whatever they show. CT: the study's HU windows. Everything else: percentiles
    of the foreground, which is what lies above the array's lowest value.
    """
    if kind == "images" and dtype in (np.uint8, np.uint16):
        ends = sorted((intercept, intercept + slope * float(np.iinfo(dtype).max)))
    elif modality == "CT":
        return [float(low) for low, _ in window_hu], [float(high) for _, high in window_hu]
    else:
        ends = percentiles_of(above_minimum(counts), percentiles)
        # also in the single precision that a network uses
        if not np.float32(ends[0]) < np.float32(ends[1]):
            ends[1] = ends[0] + max(abs(slope), 2 * float(np.spacing(np.float32(abs(ends[0])))))
    return [ends[0]] * len(window_hu), [ends[1]] * len(window_hu)
