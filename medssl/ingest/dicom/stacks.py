"""From the headers of one series to its volumes: each slice ends in exactly one stack or one refusal."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medssl.ingest.dicom.groups import groups_of
from medssl.ingest.dicom.header import Header
from medssl.ingest.dicom.slices import Slice, slices_of_file
from medssl.ingest.dicom.time_points import Digest, time_points, without_copies
from medssl.ingest.refusal import Refusal

if TYPE_CHECKING:
    from medssl.ingest.options import IngestOptions  # a reading process has no room for what it imports

STEP_TOLERANCE_FRAC, STEP_TOLERANCE_MM = 0.01, 0.02
DRIFT_VOX = 0.1
MISSING_FRAC = 0.25
"""Up to this share of steps that are whole multiples of the others counts as missing slices, more as uneven spacing."""


@dataclass(eq=False)
class Stack:
    """Slices of one volume in order along the normal, and what must be done to them."""

    slices: list[Slice]
    positions: np.ndarray
    step: np.ndarray
    """(3,) LPS mm from slice to slice, of an even stack."""
    tilt_deg: float = 0.0
    straighten: bool = False
    time_index: int | None = None
    names: list[str] = field(default_factory=list)
    """What distinguishes this volume from the others of its series."""


@dataclass(eq=False)
class Refused:
    """Files of a series that form no volume, and why."""

    code: str
    sentence: str
    files: set[int]


def stacks_of_series(
    files: list[tuple[int, Header]], options: IngestOptions, digest: Digest
) -> tuple[list[Stack], list[Refused]]:
    """Volumes and refusals of one series. `digest` gives a hash of a slice's pixels and is asked only about collisions."""
    refused: list[Refused] = []
    images: list[tuple[int, Header]] = []
    by_role: dict[str, set[int]] = defaultdict(set)
    for number, header in files:
        role = "image" if header.role == "derived" and options.derived == "accept" else header.role
        if role == "image":
            images.append((number, header))
        else:
            by_role[role].add(number)
    refused += [Refused(role, Refusal(role).sentence, numbers) for role, numbers in sorted(by_role.items())]
    if not images:
        return [], refused
    everything = {number for number, _ in images}
    try:
        slices = [piece for number, header in images for piece in slices_of_file(number, header)]
        slices, copies = without_copies(slices, digest)
        if copies:
            refused.append(
                Refused("duplicate", Refusal("duplicate").sentence, {s.file for s in copies} - {s.file for s in slices})
            )
            everything -= refused[-1].files
        _check_declared(slices)
        groups = groups_of(slices, options.min_slices)
    except Refusal as refusal:
        return [], [*refused, Refused(refusal.code, refusal.sentence, everything)]
    stacks: list[Stack] = []
    for names, group in groups:
        try:
            found, copies = _stacks_of_group(group, options, digest)
        except Refusal as refusal:
            refused.append(Refused(refusal.code, refusal.sentence, {s.file for s in group}))
            continue
        for stack in found:
            stack.names = [*names, *stack.names]
        stacks += found
        if copies:
            refused.append(Refused("duplicate", Refusal("duplicate").sentence, {s.file for s in copies}))
    return stacks, refused


def _check_declared(slices: list[Slice]) -> None:
    declared = max((s.header.declared_images or 0 for s in slices), default=0)
    if declared > len(slices):
        raise Refusal("incomplete", f"{len(slices)} of {declared} images are here")


def _stacks_of_group(group: list[Slice], options: IngestOptions, digest: Digest) -> tuple[list[Stack], list[Slice]]:
    points, copies = time_points(group, digest)
    stacks = [_stack(slices, options) for slices in points]
    if len(stacks) > 1:
        first = stacks[0]
        for index, stack in enumerate(stacks):
            if len(stack.slices) != len(first.slices) or np.abs(stack.positions - first.positions).max() > 0.1:
                raise Refusal("incomplete", f"time point {index} has other slices than time point 0")
            stack.time_index, stack.names = index, [f"time{index}"]
    return stacks, copies


def _stack(slices: list[Slice], options: IngestOptions) -> Stack:
    """One volume, ordered along its normal, if its geometry is sound.

    Raises:
        Refusal: too few slices, a gap, uneven steps, a tilt or a shift that the options do not allow.
    """
    normal = slices[0].normal
    ordered = sorted(slices, key=lambda s: float(s.position @ normal))
    positions = np.stack([s.position for s in ordered])
    if len(ordered) < options.min_slices:
        raise Refusal("few_slices", f"{len(ordered)} of at least {options.min_slices}")
    if len(ordered) == 1:
        thickness = slices[0].header.slice_thickness
        return Stack(ordered, positions, normal * (thickness if thickness and 0 < thickness < 100 else 1.0))
    depths = (positions - positions[0]) @ normal
    even = _check_steps(np.diff(depths), options)
    lateral = positions - positions[0] - depths[:, None] * normal
    drift = lateral[-1]
    pixel_mm = float(slices[0].spacing.min())
    off_line = float(np.linalg.norm(lateral - np.outer(depths / depths[-1], drift), axis=1).max())
    if off_line > max(DRIFT_VOX * pixel_mm, STEP_TOLERANCE_MM):
        raise Refusal("shifted", f"by up to {off_line:.2f} mm")
    tilt_deg = math.degrees(math.atan2(float(np.linalg.norm(drift)), float(depths[-1])))
    tilted = float(np.linalg.norm(drift)) > DRIFT_VOX * pixel_mm
    if tilted and options.tilt == "refuse":
        raise Refusal("tilted", f"{tilt_deg:.2f} degrees")
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    return Stack(ordered, positions, step, tilt_deg if tilted else 0.0, straighten=tilted or not even)


def _check_steps(steps: np.ndarray, options: IngestOptions) -> bool:
    """Whether all steps are equal within 1 % or 0.02 mm; uneven ones are refused unless the options resample them."""
    median = float(np.median(steps))
    if median <= 1e-3:
        raise Refusal("not_a_volume", f"slices {median:g} mm apart")
    odd = np.abs(steps - median) > max(STEP_TOLERANCE_FRAC * median, STEP_TOLERANCE_MM)
    if not odd.any():
        return True
    where = int(np.flatnonzero(odd)[0])
    detail = f"slices {where + 1} to {where + 2} are {steps[where]:.3f} mm apart, most others {median:.3f}"
    multiples = steps[odd] / median
    whole = np.abs(multiples - np.round(multiples)) < 0.05
    if (whole & (np.round(multiples) >= 2)).all() and odd.sum() <= max(1, MISSING_FRAC * len(steps)):
        raise Refusal("missing_slice", detail)
    if options.uneven == "refuse":
        raise Refusal("uneven", detail)
    return False
