"""Stored numbers and values: windows, quantisation to 16 bits, exact percentiles from counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from medssl.core.shapes import Float, Int16, Int64, Num, Shaped

QUANTA = 65000
"""Levels that `quantise` spreads over the range of the values; the rest of 16 bits leaves room for rounding."""

BODY_PERCENTILES = (0.5, 25.0, 75.0, 99.5)
TIMES_ORDINARY = 32.0
"""For `ordinary_range`: the percentiles that bound the body of the values and its quarters, and the largest ratio of ranges."""

SAMPLED_VOXELS, LEAST_VOXELS, LEAST_BODY = 2**20, 1000, 100
"""How many voxels it samples, and the fewest about which it decides."""


class Quantised(NamedTuple):
    """`value = slope × stored + intercept`, `stored` int16."""

    stored: Int16[np.ndarray, "..."]
    slope: float
    intercept: float


class OrdinaryRange(NamedTuple):
    """The range of all values of an image except outliers."""

    low: float
    high: float
    outliers: bool
    """Whether values lie so far beyond it that 16 bits over all of them would flatten the rest."""
    distinguished: bool
    """Whether 16 bits over the range distinguish the middle half of the values."""


class Counts(NamedTuple):
    """The distinct numbers of an array in ascending order, and how often each occurs."""

    values: Num[np.ndarray, "levels"]
    number: Int64[np.ndarray, "levels"]


def values_of(stored: Any, slope: Any, intercept: Any) -> Any:
    """True values (HU for CT) of stored numbers: `slope × stored + intercept`, any shape, in the type of `stored`.

    stored: floating, a numpy array or a torch tensor; with numbers as slope and intercept its precision is kept.
    """
    return stored * slope + intercept


def windowed(values: Any, low: Any, high: Any) -> Any:
    """What the network sees: `clip((value − low) / (high − low), 0, 1)`, any shape, in the type of `values`.

    values: floating, a numpy array or a torch tensor; low < high: numbers, or arrays that go with its shape.
    """
    return ((values - low) / (high - low)).clip(0, 1)


def ordinary_range(values: Float[np.ndarray, "..."]) -> OrdinaryRange:
    """The range of an image's values, without outliers if these lie far beyond all others.

    The body of the values lies between percentiles 0.5 and 99.5, without background and extremes. Values within twice its width
    of
    it are ordinary. Outliers are excluded if the whole range is more than 32 times the ordinary one. So ordinary values are
    distinguished to a thousandth of their range or better, and a bright vessel is not an outlier.
    """
    whole = low, high = float(values.min()), float(values.max())
    sample = _sample(values)
    middle = float(np.median(sample))
    body = sample[(sample != middle) & (sample != low) & (sample != high)]
    if values.size < LEAST_VOXELS or body.size < LEAST_BODY or not np.isfinite([low, high]).all():
        return OrdinaryRange(low, high, False, True)
    first, one, three, last = (float(v) for v in np.percentile(body, BODY_PERCENTILES))
    first, last = min(first, middle), max(last, middle)
    width = last - first
    if high - low > TIMES_ORDINARY * width:
        ordinary = (values >= first - 2 * width) & (values <= last + 2 * width)
        kept_low = float(values.min(where=ordinary, initial=np.inf))
        kept_high = float(values.max(where=ordinary, initial=-np.inf))
        if high - low > TIMES_ORDINARY * (kept_high - kept_low):
            low, high = kept_low, kept_high
    return OrdinaryRange(low, high, (low, high) != whole, one == three or three - one > (high - low) / QUANTA)


def _sample(values: np.ndarray) -> np.ndarray:
    """About a million values, float64, spread over the whole array."""
    flat = values.ravel(order="K")
    step = max(1, values.size // SAMPLED_VOXELS)
    while math.gcd(step, values.size) > 1:
        step += 1
    return flat[::step].astype(np.float64)


def quantise(values: Float[np.ndarray, "..."]) -> Quantised:
    """Floating values as int16 with a step that is a power of two, so that whole numbers stay exact if the step is ≤ 1.

    The error is at most half a step, and the step is below (max − min) / 32,500: for CT (−1024…3071 HU) 0.06 HU at most.
    Outliers (`ordinary_range`) become the nearest ordinary value, and minimum and maximum are then those of the rest.

    Raises:
        ValueError: some value is not finite, or the range overflows.
    """
    ordinary = ordinary_range(values)
    low, high = ordinary.low, ordinary.high
    if not np.isfinite([low, high]).all():
        raise ValueError("values that are not finite cannot be stored in 16 bits")
    if not np.isfinite(high - low):
        raise ValueError("a range of values that is not finite cannot be stored in 16 bits")
    if low == high:
        return Quantised(np.zeros_like(values, dtype=np.int16), 1.0, low)
    step = float(2.0 ** np.ceil(np.log2((high - low) / QUANTA)))
    middle = float(np.round((low + high) / 2 / step) * step)
    stored = np.empty_like(values, dtype=np.int16)
    for k in range(values.shape[-1]):
        # float64 plane by plane: float32 would round large values before they are divided
        plane = values[..., k].astype(np.float64)
        if ordinary.outliers:
            plane = plane.clip(low, high)
        stored[..., k] = np.rint((plane - middle) / step)
    return Quantised(stored, step, middle)


def counts_of(parts: Iterable[Shaped[np.ndarray, "..."]], slope: float = 1.0, intercept: float = 0.0) -> Counts:
    """Count every value in arrays of stored int16, uint8 or uint16 (one bin per value: exact, and cheaper than sorting)."""
    total, offset = np.zeros(2**15 + 2**16, dtype=np.int64), 2**15
    for part in parts:
        if part.dtype not in (np.int16, np.uint8, np.uint16):
            raise TypeError(f"counts are taken of int16, uint8 or uint16, got {part.dtype}")
        total += np.bincount(part.ravel(order="K").astype(np.int32) + offset, minlength=len(total))
    (found,) = np.nonzero(total)
    values, number = (found - offset) * slope + intercept, total[found]
    return Counts(values, number) if slope > 0 else Counts(values[::-1], number[::-1])


def above_minimum(counts: Counts) -> Counts:
    """The counts without the lowest value, which is air, padding or a stripped background; all of them if there is only one."""
    return counts if len(counts.values) == 1 else Counts(counts.values[1:], counts.number[1:])


def percentiles_of(counts: Counts, percents: Sequence[float]) -> list[float]:
    """Percentiles of counted values: the lowest value with at least that share at or below it.

    Source: numpy's method `inverted_cdf`, to which it is equal.
    """
    cumulative = np.cumsum(counts.number)
    wanted = np.asarray(percents, dtype=np.float64) / 100 * cumulative[-1]
    return [float(n) for n in counts.values[np.searchsorted(cumulative, wanted).clip(max=len(cumulative) - 1)]]


def moments_of(counts: Counts) -> tuple[float, float]:
    """Mean and standard deviation of the counted values."""
    mean = float(np.average(counts.values, weights=counts.number))
    return mean, float(np.sqrt(np.average((counts.values - mean) ** 2, weights=counts.number)))


def number_above(
    stored: Num[np.ndarray, "..."], slope: float, intercept: float, value: float, *, axis: int
) -> Int64[np.ndarray, "planes"]:
    """How many stored numbers of each plane along `axis` represent more than `value`: int64 `(planes,)`."""
    threshold = (value - intercept) / slope
    # compared as integers: no floating copy of the array
    above = stored > int(np.floor(threshold)) if slope > 0 else stored < int(np.ceil(threshold))
    return np.count_nonzero(above, axis=tuple(other for other in range(stored.ndim) if other != axis)).astype(np.int64)
