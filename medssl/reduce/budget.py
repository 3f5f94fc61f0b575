"""How many slices are kept: by threshold, by fraction, or as many as another arm keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Num

from medssl.core.rng import ids_to_keys, key, uniforms
from medssl.reduce.slices import BUDGET, KEPT, NO_TWIN, Decision, Slices

MAX_TRIALS = 40


def nearest_threshold(
    decide: Callable[[float], Decision], count: int, *, highest: float, whole_steps: bool
) -> tuple[Decision, float]:
    """The smallest threshold found that keeps at most `count` slices, and its decision.

    Bisection between 0 and `highest`: kept counts fall with the threshold, apart from small wiggles.
    """
    low, high = 0.0, float(highest)
    decision = decide(low)
    if decision.num_kept <= count:
        return decision, low
    best, at = decide(high), high
    for _ in range(MAX_TRIALS):
        middle = float(np.floor((low + high) / 2)) if whole_steps else (low + high) / 2
        if best.num_kept == count or middle in (low, high):
            break
        decision = decide(middle)
        if decision.num_kept <= count:
            best, at, high = decision, middle, middle
        else:
            low = middle
    return best, at


def exactly(decision: Decision, count: int, slices: Slices) -> Decision:
    """`decision` with `count` slices kept.

    Filled: dropped slices farthest from their twin come back, ties by the study's seed. Trimmed, if even the largest threshold
    keeps too many: the kept slices that represent fewest are dropped, ties by the seed. They and the slices that they represented
    have no twin.
    """
    luck = uniforms(key(slices.seed, "reduce", "budget"), ids_to_keys(list(slices.ids)), 1)[:, 0]
    keep, twin, distance, reason = (a.copy() for a in (decision.keep, decision.twin, decision.distance, decision.reason))
    missing = count - decision.num_kept
    if missing > 0:
        dropped = np.flatnonzero(~keep)
        twin_distance = np.nan_to_num(distance[dropped], nan=-1.0)
        back = dropped[np.lexsort((luck[dropped], -twin_distance))][:missing]
        keep[back], twin[back], distance[back], reason[back] = True, NO_TWIN, np.nan, KEPT
    elif missing < 0:
        keepers = np.flatnonzero(keep)
        stands_for = np.bincount(twin[twin != NO_TWIN], minlength=len(keep))[keepers]
        gone = keepers[np.lexsort((luck[keepers], stands_for))][:-missing]
        keep[gone] = False
        orphans = np.isin(twin, gone)
        for lost in (gone, np.flatnonzero(orphans)):
            twin[lost], distance[lost], reason[lost] = NO_TWIN, np.nan, BUDGET
    return replace(decision, keep=keep, twin=twin, distance=distance, reason=reason)


def evenly(num: int, count: int) -> Bool[np.ndarray, "{num}"]:
    """A mask (num,) with `count` places spaced as evenly as whole steps allow, the first at the middle of its step."""
    places = np.arange(num + 1) * count + num // 2
    return np.diff(places // max(num, 1)) > 0


def lowest(scores: Num[np.ndarray, "n"], count: int, slices: Slices) -> Bool[np.ndarray, "n"]:
    """A mask (n,) of the `count` lowest scores, ties by the study's seed."""
    luck = uniforms(key(slices.seed, "reduce", "rank"), ids_to_keys(list(slices.ids)), 1)[:, 0]
    mask = np.zeros(len(scores), bool)
    mask[np.lexsort((luck, scores))[:count]] = True
    return mask
