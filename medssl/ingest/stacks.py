"""From the headers of one series to its volumes: each slice ends in exactly one stack or one refusal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from medssl.ingest.header import Frame, Header
from medssl.ingest.pixels import check_pixels
from medssl.ingest.refusal import Refusal

SAME_PLACE_MM = 0.01
STEP_TOLERANCE_FRAC, STEP_TOLERANCE_MM = 0.01, 0.02
DRIFT_VOX = 0.1
MISSING_FRAC = 0.25
"""Up to this share of steps that are whole multiples of the others counts as missing slices, more as uneven spacing."""


@dataclass(frozen=True)
class Rules:
    """The options that decide between a volume and a refusal."""

    tilt: str = "resample"
    uneven: str = "refuse"
    derived: str = "refuse"
    min_slices: int = 3


@dataclass(eq=False, slots=True)
class Slice:
    """One image plane: frame `frame` (tile `tile` of a mosaic) of file `file`. Lengths in millimetres, LPS."""

    file: int
    frame: int
    tile: int
    header: Header
    slope: float
    intercept: float
    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray
    rows: int
    columns: int
    kind: tuple[object, ...]
    times: list[float]


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
    """What tells this volume apart from the others of its series."""


@dataclass(eq=False)
class Refused:
    """Files of a series that form no volume, and why."""

    code: str
    sentence: str
    files: set[int]


Digest = Callable[[Slice], str]


def stacks_of_series(files: list[tuple[int, Header]], rules: Rules, digest: Digest) -> tuple[list[Stack], list[Refused]]:
    """Volumes and refusals of one series. `digest` gives a hash of a slice's pixels and is asked only about collisions."""
    refused: list[Refused] = []
    images: list[tuple[int, Header]] = []
    by_role: dict[str, set[int]] = defaultdict(set)
    for number, header in files:
        role = "image" if header.role == "derived" and rules.derived == "accept" else header.role
        if role == "image":
            images.append((number, header))
        else:
            by_role[role].add(number)
    refused += [Refused(role, Refusal(role).sentence, numbers) for role, numbers in sorted(by_role.items())]
    if not images:
        return [], refused
    everything = {number for number, _ in images}
    try:
        slices = [piece for number, header in images for piece in _slices(number, header)]
        slices, copies = _without_copies(slices, digest)
        if copies:
            refused.append(
                Refused("duplicate", Refusal("duplicate").sentence, {s.file for s in copies} - {s.file for s in slices})
            )
            everything -= refused[-1].files
        _check_declared(slices)
        groups = _groups(slices, rules)
    except Refusal as refusal:
        return [], [*refused, Refused(refusal.code, refusal.sentence, everything)]
    stacks: list[Stack] = []
    for names, group in groups:
        try:
            found, copies = _stacks_of_group(group, rules, digest)
        except Refusal as refusal:
            refused.append(Refused(refusal.code, refusal.sentence, {s.file for s in group}))
            continue
        for stack in found:
            stack.names = [*names, *stack.names]
        stacks += found
        if copies:
            refused.append(Refused("duplicate", Refusal("duplicate").sentence, {s.file for s in copies}))
    return stacks, refused


# ---- slices


def _slices(number: int, header: Header) -> list[Slice]:
    check_pixels(header.layout)
    if header.tiles:
        return _mosaic_slices(number, header)
    frames = header.per_frame or [header.frame] * header.layout.frames
    if header.layout.frames > 1 and not header.per_frame:
        raise Refusal("no_position", f"{header.layout.frames} frames without a position each")
    return [_slice(number, index, -1, header, frame) for index, frame in enumerate(frames)]


def _slice(number: int, index: int, tile: int, header: Header, frame: Frame) -> Slice:
    spacing = _vector(frame.spacing, "no_spacing")
    if (spacing <= 0).any() or (spacing > 100).any():
        raise Refusal("no_spacing", f"{spacing[0]:g} and {spacing[1]:g} mm")
    orientation = _orientation(frame.orientation)
    position = _vector(frame.position, "no_position")
    if np.abs(position).max() > 1e5:
        raise Refusal("no_position", f"{np.abs(position).max():g} mm away")
    slope, intercept = _rescale(header, frame)
    return Slice(
        file=number,
        frame=index,
        tile=tile,
        header=header,
        slope=slope,
        intercept=intercept,
        position=position,
        orientation=orientation,
        spacing=spacing,
        rows=header.layout.rows,
        columns=header.layout.columns,
        kind=_kind(header, frame),
        times=frame.time,
    )


def _mosaic_slices(number: int, header: Header) -> list[Slice]:
    """The tiles of a Siemens mosaic: the position of the header is that of the whole sheet, laid around the first slice.

    Source: nibabel's notes on the mosaic geometry (dicom_mosaic), and the CSA slice normal for the direction.
    """
    side = math.ceil(math.sqrt(header.tiles))
    rows, columns = header.layout.rows // side, header.layout.columns // side
    whole = _slice(number, 0, 0, header, header.frame)
    rows_run, columns_run = whole.orientation[:3], whole.orientation[3:]
    normal = np.cross(rows_run, columns_run)
    if header.tile_normal is not None:
        declared = np.array(header.tile_normal)
        if abs(abs(declared @ normal) - 1) > 1e-2:
            raise Refusal("no_orientation", "the mosaic's slice normal is not normal to its slices")
        normal = normal * np.sign(declared @ normal)
    if header.slice_gap is None or not header.slice_gap > 0:
        raise Refusal("no_spacing", "a mosaic without a distance between slices")
    corner = (
        whole.position
        + rows_run * whole.spacing[1] * (header.layout.columns - columns) / 2
        + columns_run * whole.spacing[0] * (header.layout.rows - rows) / 2
    )
    tiles = []
    for tile in range(header.tiles):
        piece = _slice(number, 0, tile, header, header.frame)
        piece.position = corner + normal * header.slice_gap * tile
        piece.rows, piece.columns = rows, columns
        tiles.append(piece)
    return tiles


def _vector(values: list[float] | None, code: str) -> np.ndarray:
    if values is None:
        raise Refusal(code)
    if not all(math.isfinite(v) for v in values):
        raise Refusal(code, "not a number")
    return np.array(values)


def _orientation(values: list[float] | None) -> np.ndarray:
    orientation = _vector(values, "no_orientation")
    rows_run, columns_run = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(rows_run), np.linalg.norm(columns_run)
    if abs(lengths[0] - 1) > 1e-2 or abs(lengths[1] - 1) > 1e-2 or abs(rows_run @ columns_run) > 1e-2:
        raise Refusal("no_orientation", "the directions are not two unit vectors at a right angle")
    return np.concatenate([rows_run / lengths[0], columns_run / lengths[1]])


def _rescale(header: Header, frame: Frame) -> tuple[float, float]:
    if header.modality == "CT" and (frame.slope is None or frame.intercept is None):
        raise Refusal("no_rescale")
    slope = 1.0 if frame.slope is None else frame.slope
    intercept = 0.0 if frame.intercept is None else frame.intercept
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope <= 0:
        raise Refusal("bad_rescale", f"slope {slope:g}, intercept {intercept:g}")
    if header.modality == "CT" and not header.layout.signed and intercept >= 0:
        raise Refusal("implausible_hu", f"unsigned pixels and an intercept of {intercept:g} leave no value for air")
    return slope, intercept


def _kind(header: Header, frame: Frame) -> tuple[object, ...]:
    """What makes images of one series belong to different volumes by their content."""
    words = header.image_type[2:3] if header.modality == "CT" else [w for w in header.image_type[2:] if w not in ("ADD", "NORM")]
    echo = frame.echo_time if header.modality == "MR" else None
    return (
        header.modality,
        tuple(words),
        header.kernel if header.modality == "CT" else None,
        header.echo_number if header.modality == "MR" else None,
        None if echo is None else round(echo, 3),
        None if frame.b_value is None else round(frame.b_value, 1),
        frame.kind,
        header.layout.signed,
        header.layout.bits_allocated,
    )


# ---- duplicates


def _without_copies(slices: list[Slice], digest: Digest) -> tuple[list[Slice], list[Slice]]:
    """One of each instance; the same instance with other pixels is a conflict."""
    first: dict[tuple[str, int, int], Slice] = {}
    copies = []
    for piece in slices:
        key = (piece.header.sop, piece.frame, piece.tile)
        if key not in first:
            first[key] = piece
        elif digest(piece) == digest(first[key]) and np.allclose(piece.position, first[key].position, atol=SAME_PLACE_MM):
            copies.append(piece)
        else:
            raise Refusal("conflict", "one instance identifier, two different images")
    return list(first.values()), copies


def _check_declared(slices: list[Slice]) -> None:
    declared = max((s.header.declared_images or 0 for s in slices), default=0)
    if declared > len(slices):
        raise Refusal("incomplete", f"{len(slices)} of {declared} images are here")


# ---- groups


def _groups(slices: list[Slice], rules: Rules) -> list[tuple[list[str], list[Slice]]]:
    """Slices that may form one volume: same content, matrix, spacing and orientation.

    Raises:
        Refusal: a few slices differ and would fit into (or onto the end of) the stack of the others.
    """
    if len({s.header.rescale_tags for s in slices}) > 1:
        raise Refusal("mixed_rescale", "some slices declare a rescale that others lack")
    groups: list[list[Slice]] = []
    for piece in slices:
        for group in groups:
            if not _difference(piece, group[0]):
                group.append(piece)
                break
        else:
            groups.append([piece])
    groups.sort(key=lambda g: (-len(g), g[0].file))
    main = groups[0]
    for other in groups[1:]:
        if len(_distinct_depths(other)) >= rules.min_slices:
            continue
        if len(_distinct_depths(main)) < rules.min_slices and len(slices) >= rules.min_slices:
            raise Refusal(_difference(other[0], main[0]), f"{len(groups)} kinds of slices, none of them a volume")
        for candidate in groups:
            if candidate is not other and len(candidate) >= len(other) and _fits(other, candidate):
                raise Refusal(_difference(other[0], candidate[0]), f"{len(other)} of {len(slices)} slices")
    if len(groups) == 1:
        return [([], main)]
    return [
        ([f"{k}" for k in (*g[0].kind, g[0].rows, g[0].columns, *np.round(g[0].spacing, 3), *np.round(g[0].orientation, 2))], g)
        for g in groups
    ]


def _difference(one: Slice, other: Slice) -> str:
    """The code for how two slices differ, or nothing."""
    if (one.rows, one.columns) != (other.rows, other.columns):
        return "mixed_matrix"
    if np.abs(one.spacing - other.spacing).max() > 1e-3 * other.spacing.max():
        return "mixed_spacing"
    if (
        np.abs(one.orientation - other.orientation).max() > 2e-3
        or one.header.frame_of_reference != other.header.frame_of_reference
    ):
        return "mixed_orientation"
    return "mixed_content" if one.kind != other.kind else ""


def _normal(piece: Slice) -> np.ndarray:
    return np.cross(piece.orientation[:3], piece.orientation[3:])


def _distinct_depths(slices: Iterable[Slice]) -> np.ndarray:
    """Depths along the normal of the first slice, each place once."""
    pieces = list(slices)
    depths = np.sort([s.position @ _normal(pieces[0]) for s in pieces])
    return depths[np.concatenate([[True], np.diff(depths) > SAME_PLACE_MM])]


def _fits(fragment: list[Slice], stack: list[Slice]) -> bool:
    """Whether a slice of the fragment lies where the stack has a hole, or one step beyond its ends."""
    normal = _normal(stack[0])
    depths = _distinct_depths(stack)
    if len(depths) < 2:
        return True
    step = float(np.median(np.diff(depths)))
    reach = step * (len(fragment) + 0.1)
    line = (stack[-1].position - stack[0].position) - normal * ((stack[-1].position - stack[0].position) @ normal)
    parallel = abs(_normal(fragment[0]) @ normal) > 0.999
    for piece in fragment:
        depth = piece.position @ normal
        free = np.abs(depths - depth).min() > 0.1 * step
        near = depths[0] - reach <= depth <= depths[-1] + reach
        if not parallel:
            aside = (piece.position - stack[0].position) - normal * ((piece.position - stack[0].position) @ normal)
            near = near and float(np.linalg.norm(aside)) <= float(np.linalg.norm(line)) + step
        if free and near:
            return True
    return False


# ---- one group


def _stacks_of_group(group: list[Slice], rules: Rules, digest: Digest) -> tuple[list[Stack], list[Slice]]:
    points, copies = _time_points(group, digest)
    stacks = [_stack(slices, rules) for slices in points]
    if len(stacks) > 1:
        first = stacks[0]
        for index, stack in enumerate(stacks):
            if len(stack.slices) != len(first.slices) or np.abs(stack.positions - first.positions).max() > 0.1:
                raise Refusal("incomplete", f"time point {index} has other slices than time point 0")
            stack.time_index, stack.names = index, [f"time{index}"]
    return stacks, copies


def _time_points(group: list[Slice], digest: Digest) -> tuple[list[list[Slice]], list[Slice]]:
    """Slices of each time point, and identical copies that were dropped.

    Raises:
        Refusal: several different images lie at one place and nothing tells them apart.
    """
    places = _by_place(group)
    num_points = max(len(p) for p in places)
    if num_points == 1:
        return [group], []
    if len(places) == 1 and len(group) > 2:
        raise Refusal("not_a_volume", f"{len(group)} images at one position")
    points = _split(places, num_points)
    if points:
        return points, []
    kept: list[Slice] = []
    copies: list[Slice] = []
    for place in places:
        seen: set[str] = set()
        for piece in sorted(place, key=lambda s: s.file):
            mark = digest(piece) if len(place) > 1 else ""
            (copies if mark in seen and mark else kept).append(piece)
            seen.add(mark)
    if copies:
        places = _by_place(kept)
        num_points = max(len(p) for p in places)
        if num_points == 1:
            return [kept], copies
        points = _split(places, num_points)
        if points:
            return points, copies
    crowded = sum(len(p) > 1 for p in places)
    raise Refusal("conflict", f"{crowded} of {len(places)} positions hold up to {num_points} different images")


def _by_place(group: list[Slice]) -> list[list[Slice]]:
    normal = _normal(group[0])
    places: list[list[Slice]] = []
    last = -math.inf
    for depth, _, piece in sorted(((float(s.position @ normal), n, s) for n, s in enumerate(group)), key=lambda e: e[:2]):
        if depth - last > SAME_PLACE_MM:
            places.append([])
        places[-1].append(piece)
        last = depth
    return places


def _split(places: list[list[Slice]], num_points: int) -> list[list[Slice]]:
    """Time points, by the first field that puts at most one slice of each into every place; empty if none does."""
    slices = [piece for place in places for piece in place]
    marks: list[Callable[[Slice], float | None]] = [
        lambda s: None if s.header.temporal_position is None else float(s.header.temporal_position),
        lambda s: None if s.header.acquisition is None else float(s.header.acquisition),
        *[lambda s, n=n: s.times[n] if n < len(s.times) else None for n in range(3)],  # type: ignore[misc]
    ]
    for mark in marks:
        values = [mark(s) for s in slices]
        if None in values or len(set(values)) != num_points:
            continue
        if all(len({mark(s) for s in place}) == len(place) for place in places):
            return [[s for s in slices if mark(s) == value] for value in sorted(set(values))]  # type: ignore[type-var]
    if any(len(place) != num_points for place in places) or len(places) == 1:
        return []
    return _split_by_instance(places, num_points)


def _split_by_instance(places: list[list[Slice]], num_points: int) -> list[list[Slice]]:
    """Time points by instance number, if the numbers run through whole volumes, or through all times of each place."""
    order = [[(s.header.instance, s.file, s.frame) for s in place] for place in places]
    if any(instance is None for place in order for instance, _, _ in place):
        return []
    ranked = [sorted(place, key=lambda s: (s.header.instance or 0, s.file, s.frame)) for place in places]
    numbers = np.array([[s.header.instance for s in place] for place in ranked])
    if len(np.unique(numbers)) != numbers.size:
        return []
    by_volume = bool((numbers[:, :-1].max(axis=0) < numbers[:, 1:].min(axis=0)).all())
    by_place = bool((numbers.max(axis=1) - numbers.min(axis=1) == num_points - 1).all())
    return [[place[t] for place in ranked] for t in range(num_points)] if by_volume or by_place else []


def _stack(slices: list[Slice], rules: Rules) -> Stack:
    """One volume, ordered along its normal, if its geometry is sound.

    Raises:
        Refusal: too few slices, a gap, uneven steps, a tilt or a shift that the rules do not allow.
    """
    normal = _normal(slices[0])
    ordered = sorted(slices, key=lambda s: float(s.position @ normal))
    positions = np.stack([s.position for s in ordered])
    if len(ordered) < rules.min_slices:
        raise Refusal("few_slices", f"{len(ordered)} of at least {rules.min_slices}")
    if len(ordered) == 1:
        thickness = slices[0].header.slice_thickness
        return Stack(ordered, positions, normal * (thickness if thickness and 0 < thickness < 100 else 1.0))
    depths = (positions - positions[0]) @ normal
    even = _check_steps(np.diff(depths), rules)
    lateral = positions - positions[0] - depths[:, None] * normal
    drift = lateral[-1]
    pixel_mm = float(slices[0].spacing.min())
    off_line = float(np.linalg.norm(lateral - np.outer(depths / depths[-1], drift), axis=1).max())
    if off_line > max(DRIFT_VOX * pixel_mm, STEP_TOLERANCE_MM):
        raise Refusal("shifted", f"by up to {off_line:.2f} mm")
    tilt_deg = math.degrees(math.atan2(float(np.linalg.norm(drift)), float(depths[-1])))
    tilted = float(np.linalg.norm(drift)) > DRIFT_VOX * pixel_mm
    if tilted and rules.tilt == "refuse":
        raise Refusal("tilted", f"{tilt_deg:.2f} degrees")
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    return Stack(ordered, positions, step, tilt_deg if tilted else 0.0, straighten=tilted or not even)


def _check_steps(steps: np.ndarray, rules: Rules) -> bool:
    """Whether all steps are equal within 1 % or 0.02 mm; uneven ones are refused unless the rules resample them."""
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
    if rules.uneven == "refuse":
        raise Refusal("uneven", detail)
    return False
