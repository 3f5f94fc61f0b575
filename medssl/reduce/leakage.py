"""Finds an image again in another collection, after any change of its geometry: by pixels alone, never by headers.

Spacing does not matter, because an image is described in the frame of its own content. All flips and permuted axes are tried.
Crops are tried as a small set of sub-frames. Grey values may differ by gain and offset.

A coarse search of thumbnails finds candidates. Each candidate is then aligned with the image (start and end of its frame along
every axis, gain, offset) and the two are compared in detail. Chest slices of two patients may agree in the thumbnail; after
alignment only a copy agrees in the detail.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float32, Num, Shaped, UInt8
from scipy.ndimage import gaussian_filter

THUMB = {2: 24, 3: 16}
"""Side of the stored thumbnail, by number of axes."""

GRID = {2: 10, 3: 7}
"""Side of the thumbnail in the coarse search."""

DETAIL = {2: 64, 3: 32}
"""Side at which a candidate is compared in detail."""

FRAMES = {
    2: ((0.0, 1.0), (0.0, 0.9), (0.1, 1.0), (0.1, 0.9), (0.0, 0.8), (0.2, 1.0)),
    3: ((0.0, 1.0), (0.0, 0.87), (0.13, 1.0), (0.07, 0.93)),
}
"""Sub-frames along one axis that represent crops of up to a fifth, by number of axes."""

LEVELS = {2: (16, 32, 64), 3: (8, 16, 24)}
"""Sides at which a candidate is aligned, one after the other."""

STEPS = (8, 6, 4)
CANDIDATES = {2: 10, 3: 6}
UNLIKE = 0.8
"""Correlation of thumbnails below which no detail is compared. This saves most of the work on different images, and missed none
of 300 slices cropped by 10 to 20 %.
"""

HOPELESS = {2: (0.9, 0.95), 3: (-1.0, 0.6)}
"""Correlation after the first and second level below which a candidate is rejected, by number of axes. Copies of slices, cropped
or resampled, had at least 0.96 and 0.98. Of different images with similar thumbnails, half had less than 0.90 and 0.87.
"""

SAME = 0.88
"""Detail correlation from which two images count as the same, between copies and other images (docs/explanation/reduce.md)."""

SIMILAR = 0.5
"""Detail correlation from which two images that are not the same are similar enough for manual review."""

POOL_BLOCK = 8192
QUERY_BLOCK = {2: 512, 3: 32}
TOGETHER = 8
"""Queries of one matrix product."""

MIN_SIDE = {2: 12, 3: 3}
MIN_CONTRAST = 0.02
CONTENT = 0.08


@dataclass(frozen=True)
class Print:
    """A reduced image of 2 or 3 axes: `thumb` (side,)*d for the search, `detail` (side,)*d for the comparison, both in 8 bits.
    A slice takes five kilobytes.
    """

    thumb: UInt8[np.ndarray, "*thumb"]
    detail: UInt8[np.ndarray, "*detail"]


@dataclass(frozen=True)
class Likeness:
    """Image `query` of one collection is image `pool` of another: detail correlation `score`."""

    query: int
    pool: int
    score: float


def fingerprint(image: Num[np.ndarray, "..."]) -> Print | None:
    """The print of an image (values of any scale); None if it is not recognisable: tiny, blank or nearly so."""
    content = image[content_box(image)].astype(np.float32)
    if min(content.shape) < MIN_SIDE[image.ndim]:
        return None
    low, high = np.percentile(content, (0.5, 99.5))
    if not high > low:
        return None
    content = np.clip((content - low) / (high - low), 0, 1)
    if content.std() < MIN_CONTRAST:
        return None
    thumb, detail = (np.round(shrunk(content, side[image.ndim]) * 255).astype(np.uint8) for side in (THUMB, DETAIL))
    return Print(thumb, detail)


def content_box(image: Num[np.ndarray, "..."]) -> tuple[slice, ...]:
    """The box outside of which nothing rises above the background, which is the lowest value and a small part of the range."""
    low, high = float(image.min()), float(np.percentile(image, 99.5))
    inside = image > low + CONTENT * (high - low)
    box = []
    for axis in range(image.ndim):
        used = np.flatnonzero(inside.mean(tuple(a for a in range(image.ndim) if a != axis)) > 0.01)
        box.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, image.shape[axis]))
    return tuple(box)


def matches(
    queries: list[Print | None],
    pool: list[Print | None],
    *,
    same: float = SAME,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Likeness]:
    """Every query with a match in the pool, with all its matches, best first. All images have the same number of axes.

    `advance` is called with how many more queries are done.
    """
    known = [k for k, one in enumerate(pool) if one is not None]
    asked = [k for k, one in enumerate(queries) if one is not None]
    if not known or not asked:
        advance(len(queries))
        return []
    advance(len(queries) - len(asked))
    found: list[Likeness] = []
    thumbs = [pool[k].thumb for k in known]  # type: ignore[union-attr]
    block = QUERY_BLOCK[thumbs[0].ndim]
    for start in range(0, len(asked), block):
        places = asked[start : start + block]
        found_candidates = look_up([queries[k].thumb for k in places], thumbs)  # type: ignore[union-attr]
        for place, candidates in zip(places, found_candidates, strict=True):
            scored = [Likeness(place, known[c.pool], agreement(queries[place], pool[known[c.pool]], c)) for c in candidates]  # type: ignore[arg-type]
            found += sorted((match for match in scored if match.score >= same), key=lambda match: -match.score)
            advance(1)
    return found


# Search


Frame = tuple[tuple[float, float], ...]
Turn = tuple[tuple[int, ...], tuple[int, ...]]


@cache
def turns(axes: int) -> tuple[Turn, ...]:
    """All ways to permute and flip the axes: 8 of an image, 48 of a volume."""
    return tuple(
        (order, flips) for order in itertools.permutations(range(axes)) for flips in itertools.product((1, -1), repeat=axes)
    )


def turned(image: Shaped[np.ndarray, "..."], turn: Turn) -> Shaped[np.ndarray, "..."]:
    """An image with permuted, then flipped axes."""
    order, flips = turn
    return image.transpose(order)[tuple(slice(None, None, step) for step in flips)]


@dataclass(frozen=True)
class Candidate:
    """An image of the pool that resembles the query in this orientation, in these frames of the two; `alike` is their
    correlation.
    """

    pool: int
    turn: Turn
    query_frame: Frame
    pool_frame: Frame
    correlation: float


def look_up(
    queries: list[UInt8[np.ndarray, "*side"]], pool: list[UInt8[np.ndarray, "*side"]], most: int | None = None
) -> list[list[Candidate]]:
    """The most similar images of the pool for each query thumbnail, best first; the pool is read in blocks."""
    axes = queries[0].ndim
    block, most = QUERY_BLOCK[axes], most or CANDIDATES[axes]
    return [one for start in range(0, len(queries), block) for one in _look_up(queries[start : start + block], pool, most)]


def _look_up(queries: list[np.ndarray], pool: list[np.ndarray], most: int) -> list[list[Candidate]]:
    axes = queries[0].ndim
    whole: Frame = ((0.0, 1.0),) * axes
    frames: list[Frame] = list(itertools.product(FRAMES[axes], repeat=axes))
    framings = [(whole, frame) for frame in frames] + [(frame, whole) for frame in frames[1:]]
    views = np.stack([[turned(thumb, turn) for turn in turns(axes)] for thumb in queries])
    query_codes = {frame: _codes(views, frame, axes) for frame in frames}
    found: list[list[Candidate]] = [[] for _ in queries]
    for start in range(0, len(pool), POOL_BLOCK):
        stack = np.stack(pool[start : start + POOL_BLOCK])
        pool_codes = {frame: _codes(stack, frame, axes) for frame in frames}
        for first in range(0, len(queries), TOGETHER):
            # always as many as TOGETHER, so that rounding does not depend on how the queries were divided
            places = np.arange(first, first + TOGETHER) % len(queries)
            best = np.full((TOGETHER, len(stack)), -2.0, np.float32)
            for query_frame, pool_frame in framings:
                codes = query_codes[query_frame][places]
                products = codes.reshape(-1, codes.shape[-1]) @ pool_codes[pool_frame].T
                np.maximum(best, products.reshape(*codes.shape[:2], -1).max(1), out=best)
            for place, likeness in zip(places[: len(queries) - first], best, strict=False):
                chosen = np.argsort(-likeness, kind="stable")[:most]
                ways = np.stack([pool_codes[into][chosen] @ query_codes[out][place].T for out, into in framings], axis=1)
                for one, correlations in zip(chosen, ways, strict=True):
                    # of framings that differ by rounding alone, the first
                    number, turn = np.argwhere(correlations >= correlations.max() - 1e-6)[0]
                    query_frame, pool_frame = framings[number]
                    correlation = float(correlations[number, turn])
                    found[place].append(Candidate(start + int(one), turns(axes)[turn], query_frame, pool_frame, correlation))
    return [sorted(candidates, key=lambda c: (-c.correlation, c.pool))[:most] for candidates in found]


def _codes(thumbs: np.ndarray, frame: Frame, axes: int) -> np.ndarray:
    """Unit vectors (…, grid^d) of a frame of thumbnails (…, side^d): their correlation is the product."""
    thumbs = thumbs.astype(np.float32)
    for axis, (start, end) in enumerate(frame, start=-axes):
        thumbs = _along(thumbs, axis, resampling(thumbs.shape[axis], GRID[axes], start, end))
    flat = thumbs.reshape(*thumbs.shape[:-axes], -1)
    flat = flat - flat.mean(-1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-6)


# Comparison


def agreement(query: Print, pool: Print, candidate: Candidate) -> float:
    """Correlation of the details, −1 … 1, after the pool's image is aligned with the query's; −1 if they do not overlap, or if
    their thumbnails differ too much.

    The alignment finds where the query's frame starts and ends in the pool's image, by Gauss-Newton from coarse to fine.

    Source: Lucas & Kanade 1981, "An iterative image registration technique", §4, with an axis-wise scale and shift.
    """
    if candidate.correlation < UNLIKE:
        return -1.0
    image = pool.detail.astype(np.float32) / 255
    target = np.ascontiguousarray(turned(query.detail, candidate.turn), np.float32) / 255
    axes = image.ndim
    ends = np.empty((axes, 2))
    for axis in range(axes):
        (a, b), (c, d) = candidate.query_frame[axis], candidate.pool_frame[axis]
        scale = (d - c) / (b - a)
        ends[axis] = c - a * scale, c + (1 - a) * scale
    for level, side in enumerate(LEVELS[axes]):
        coarse_image, coarse_target = shrunk(image, side), shrunk(target, side)
        ends = _align(coarse_image, coarse_target, ends, STEPS[level])
        if not ((ends[:, 1] - ends[:, 0] > 0.55) & (ends[:, 1] - ends[:, 0] < 1.8)).all():
            return -1.0
        if level < len(HOPELESS[axes]):
            moved, inside = _moved(coarse_image, ends)
            if inside.mean() < 0.4 or np.corrcoef(moved[inside], coarse_target[inside])[0, 1] < HOPELESS[axes][level]:
                return -1.0
    moved, inside = _moved(image, ends)
    if inside.mean() < 0.4:
        return -1.0
    return _detail_correlation(moved, target, inside)


def _align(image: np.ndarray, target: np.ndarray, ends: np.ndarray, steps: int) -> np.ndarray:
    """Improved starts and ends (d, 2) of the target's frame in the image; both (side,)*d."""
    axes, side = image.ndim, len(image)
    soft_image, soft_target = gaussian_filter(image, 0.7), gaussian_filter(target, 0.7)
    layers = np.stack([soft_image, *np.gradient(soft_image)])
    places = (np.arange(side, dtype=np.float32) + 0.5) / side
    along = [places.reshape([-1 if a == axis else 1 for a in range(axes)]) for axis in range(axes)]
    for _ in range(steps):
        (moved, *slopes), inside = _moved(layers, ends)
        if inside.sum() < 4 * axes * axes:
            return ends
        columns = [(slope * side * weight)[inside] for slope, a in zip(slopes, along, strict=True) for weight in (1 - a, a)]
        seen, wanted = moved[inside].astype(np.float64), soft_target[inside].astype(np.float64)
        matrix = np.stack([*columns, seen, np.ones(len(seen))], axis=1)
        gram = matrix.T @ matrix
        # moved + J·step ≈ (target − offset) / gain, so the unknown gain goes with the target
        spread = float(seen.var())
        gain = float((seen - seen.mean()) @ wanted) / len(seen) / spread if spread > 1e-12 else 1.0
        if gain <= 1e-3:
            return ends
        residual = (wanted - wanted.mean()) / gain + seen.mean() - seen
        gram[np.diag_indices_from(gram)] += 1e-4 * np.trace(gram) / len(gram)
        step = np.linalg.solve(gram, matrix.T @ residual)[: 2 * axes].reshape(axes, 2)
        ends = ends + np.clip(step, -0.06, 0.06)
        if np.abs(step).max() < 0.02 / side:
            break
    return ends


def _moved(images: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (…, side^d) in the frame given by starts and ends (d, 2), and where (side^d) that frame lies inside the image."""
    inside = np.ones((), bool)
    moved, axes = images, len(ends)
    for axis, (start, end) in enumerate(ends):
        side = images.shape[axis - axes]
        moved = _along(moved, axis - axes, _linear(side, side, start, end))
        places = start + (np.arange(side) + 0.5) / side * (end - start)
        used = (places > 0.25 / side) & (places < 1 - 0.25 / side)
        inside = inside & used.reshape([-1 if a == axis else 1 for a in range(axes)])
    return moved, np.broadcast_to(inside, images.shape[-axes:])


def _detail_correlation(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> float:
    """Correlation inside a mask of all detail finer than an eighth of the frame."""
    sigma = len(a) / 16
    weight = gaussian_filter(inside.astype(np.float32), sigma) + 1e-6
    fine = []
    for image in (a, b):
        image = np.where(inside, image, 0.0).astype(np.float32)
        fine.append((image - gaussian_filter(image, sigma) / weight)[inside])
    x, y = fine[0] - fine[0].mean(), fine[1] - fine[1].mean()
    return float(x @ y / max(np.sqrt(float(x @ x) * float(y @ y)), 1e-12))


# Resampling


def shrunk(image: Num[np.ndarray, "..."], side: int) -> Float32[np.ndarray, "..."]:
    """An image resampled to (side,)*d over its whole frame, averaged where it shrinks."""
    for axis in range(image.ndim):
        if image.shape[axis] != side:
            image = _along(image, axis, resampling(image.shape[axis], side, 0.0, 1.0))
    return np.ascontiguousarray(image, np.float32)


@cache
def resampling(size: int, side: int, start: float, end: float) -> Float32[np.ndarray, "{side} {size}"]:
    """Weights (side, size) of a triangle as wide as the larger pixel, over the part start … end of the axis."""
    step = (end - start) * size / side
    centres = start * size + (np.arange(side) + 0.5) * step
    distance = np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(step, 1.0)
    weights = np.maximum(1 - distance, 0)
    weights /= weights.sum(1, keepdims=True)
    return weights.astype(np.float32)


def _linear(size: int, side: int, start: float, end: float) -> np.ndarray:
    """Weights (side, size) of linear interpolation; the border value continues outside."""
    places = np.clip((start + (np.arange(side) + 0.5) / side * (end - start)) * size - 0.5, 0, size - 1)
    distance = np.abs(np.arange(size) - places[:, None])
    return np.maximum(1 - distance, 0).astype(np.float32)


def _along(images: np.ndarray, axis: int, weights: np.ndarray) -> np.ndarray:
    """Apply weights (new, old) along an axis."""
    return np.moveaxis(np.moveaxis(images, axis, -1) @ weights.T, -1, axis)
