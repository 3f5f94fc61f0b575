"""Whether slices lie on one line at even steps. Every tolerance is a share of the voxel, and their sum has a limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from medssl.ingest.refusal import Refusal

STEP_FRAC = 0.01
"""A step may differ from the others by this share,"""
STEP_MM, STEP_MOST_FRAC = 0.02, 0.04
"""or by this many mm if that is at most this share;"""
SUM_FRAC = 0.05
"""and no slice may lie further than this share of a step from its place on the even grid."""
ROUNDED_FRAC = 0.1
"""The same if an even grid, rounded to the decimals of the positions, explains it."""
ROUNDING = 0.75
"""A rounded position is half a decimal off; slightly more from a line fitted through all of them."""
COARSEST_MM = 0.1
"""Scanners round positions to a tenth of a millimetre at most."""
ASIDE_VOX = 0.1
"""Share of a pixel by which slices may lie beside their line."""
MISSING_FRAC = 0.25
"""Up to this share of steps that are whole multiples of the others counts as missing slices. A larger share counts too if slices
are
missing in scattered places, not in blocks of a wider step, and the smallest step has at least this share of all.
"""
FEWEST_OF_BLOCK = 3
"""Length of a run of equal steps."""
MOST_STEPS = 4
"""Steps listed in a sentence."""


@dataclass(frozen=True)
class Line:
    """Slices in order along their normal."""

    even: bool
    tilt_deg: float
    """Between the normal and the line of the slices; 0 if the stack is straight."""


def line_of(positions: np.ndarray, normal: np.ndarray, pixel_mm: float, *, interpolate: bool, hint: str) -> Line:
    """The line of slices at `positions` `(n, 3)` mm, ordered along their `normal` `(3,)`; n ≥ 2.

    Uneven ones are refused with `hint`, which says what to do, unless they may be interpolated.

    Raises:
        Refusal: `not_a_volume`, `missing_slice`, `uneven` or `shifted`.
    """
    depths = (positions - positions[0]) @ normal
    unit_mm = decimals_mm(positions)
    even = _check_steps(depths, float(np.abs(normal) @ unit_mm), pixel_mm, interpolate=interpolate, hint=hint)
    lateral = positions - positions[0] - depths[:, None] * normal
    drift = lateral[-1]
    aside_mm = max(ASIDE_VOX * pixel_mm, min(float(np.linalg.norm(unit_mm)), 2.5 * ASIDE_VOX * pixel_mm))
    off_line = float(np.linalg.norm(lateral - np.outer(depths / depths[-1], drift), axis=1).max())
    if off_line > aside_mm:
        raise Refusal("shifted", f"by up to {off_line:.4g} mm")
    tilted = float(np.linalg.norm(drift)) > aside_mm
    return Line(even, math.degrees(math.atan2(float(np.linalg.norm(drift)), float(depths[-1]))) if tilted else 0.0)


def on_two_grids(depths: np.ndarray) -> bool:
    """Whether slices at sorted `depths` `(n,)` mm, unevenly spaced as a whole, form two even grids of three or more."""
    for second in range(1, min(5, len(depths) - 4)):
        step = depths[second] - depths[0]
        places = (depths - depths[0]) / max(step, 1e-9)
        numbers = np.round(places)
        close = np.flatnonzero(np.abs(places - numbers) <= 2 * STEP_FRAC)
        found, first = np.unique(numbers[close], return_index=True)
        until = int(np.flatnonzero(np.diff(np.append(found, np.inf)) != 1)[0]) + 1  # a grid has no holes
        taken = close[first][:until]
        rest = np.diff(np.delete(depths, taken))
        if until >= 3 and len(rest) >= 2 and np.abs(rest - rest.mean()).max() <= 2 * STEP_FRAC * rest.mean():
            return True
    return False


def steps_in_words(steps: np.ndarray) -> str:
    """The different `steps` `(n,)` mm with their counts: `steps of 2.5 mm (8 times), 5 mm (7 times)`."""
    groups = _alike(steps)
    if len(groups) > MOST_STEPS:
        return f"{len(groups)} different steps from {steps.min():.4g} to {steps.max():.4g} mm"
    return "steps of " + ", ".join(f"{group.mean():.4g} mm ({_times(len(group))})" for group in groups)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _alike(steps: np.ndarray) -> list[np.ndarray]:
    """Groups of steps that are equal within the tolerance, the smallest first."""
    ordered = np.sort(steps)
    limit = np.maximum(STEP_FRAC * ordered, np.minimum(STEP_MM, STEP_MOST_FRAC * ordered))
    return np.split(ordered, np.flatnonzero(np.diff(ordered) > limit[1:]) + 1)


def _missing_here_and_there(depths: np.ndarray) -> int:
    """How many slices are missing if all steps are whole multiples of the smallest; 0 if a wider step was scanned."""
    steps = np.diff(depths)
    smallest = _alike(steps)[0]
    multiples = steps / float(smallest.mean())
    numbers = np.round(multiples).astype(int)
    if len(smallest) < max(2, MISSING_FRAC * len(steps)) or (np.abs(multiples - numbers) >= 0.05).any():
        return 0
    ends = np.flatnonzero(np.diff(numbers)) + 1
    if all(len(block) >= FEWEST_OF_BLOCK for block in np.split(numbers, ends)) or on_two_grids(depths):
        return 0
    return int(numbers.sum()) - len(steps)


def decimals_mm(positions: np.ndarray) -> np.ndarray:
    """(3,) the last decimal place of each coordinate of `positions` `(n, 3)`, at most `COARSEST_MM`."""
    units = []
    for column in positions.T:
        digits = max(len(repr(float(v)).partition(".")[2]) if "e" not in repr(float(v)) else 9 for v in column)
        units.append(min(10.0**-digits, COARSEST_MM))
    return np.array(units)


def _check_steps(depths: np.ndarray, unit_mm: float, pixel_mm: float, *, interpolate: bool, hint: str) -> bool:
    """Whether slices at `depths` mm are evenly spaced; `unit_mm` is the last decimal of a depth."""
    steps = np.diff(depths)
    median = float(np.median(steps))
    if median <= 1e-3 * pixel_mm:
        raise Refusal("not_a_volume", f"slices {median:g} mm apart")
    odd = np.abs(steps - median) > max(STEP_FRAC * median, min(STEP_MM, STEP_MOST_FRAC * median))
    places = np.arange(len(depths))
    from_grid = depths - depths[-1] * places / places[-1]
    furthest = int(np.argmax(np.abs(from_grid)))
    if not odd.any() and abs(from_grid[furthest]) <= SUM_FRAC * median:
        return True
    line = np.polyval(np.polyfit(places, depths, 1), places)
    if np.abs(depths - line).max() <= min(ROUNDING * unit_mm, ROUNDED_FRAC * median):
        return True
    detail = f"slice {furthest + 1} lies {abs(from_grid[furthest]):.4g} mm from its place on an even grid of {median:.4g} mm"
    if odd.any():
        where = int(np.flatnonzero(odd)[0])
        detail = f"slices {where + 1} to {where + 2} are {steps[where]:.4g} mm apart, most others {median:.4g}"
        if odd.sum() >= 0.5 * len(steps):
            detail = steps_in_words(steps)
        multiples = steps[odd] / median
        whole = np.abs(multiples - np.round(multiples)) < 0.05
        if (whole & (np.round(multiples) >= 2)).all() and odd.sum() <= max(1, MISSING_FRAC * len(steps)):
            raise Refusal("missing_slice", detail)
        lacking = _missing_here_and_there(depths)
        if lacking:
            raise Refusal("missing_slice", f"{lacking} of {len(depths) + lacking} places are empty, {steps_in_words(steps)}")
    if not interpolate:
        raise Refusal("uneven", detail + hint)
    return False
