"""Pictures of a reduction: twins side by side, kept share against threshold, similarity inside a volume, where slices were
dropped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int64, Num

from medssl.reduce.slices import NO_TWIN, Decision, Slices

MOST_PAIRS = 12
TILE, GAP, LINE = 160, 6, 14
"""Pixels: a slice, the space between, a line of text."""

KEPT_COLOUR, DROPPED_COLOUR = "#2a6f97", "#c1666b"


def twins_to_show(decision: Decision, most: int = MOST_PAIRS) -> Int64[np.ndarray, "_"]:
    """Dropped slices that have a twin, at even steps through the order of their distance; never chosen by eye."""
    dropped = np.flatnonzero(decision.twin != NO_TWIN)
    ordered = dropped[np.argsort(decision.distance[dropped], kind="stable")]
    return ordered[np.unique(np.linspace(0, len(ordered) - 1, min(most, len(ordered))).astype(int))] if len(ordered) else ordered


def contact_sheet(slices: Slices, decision: Decision, plane: Callable[[int], Float[np.ndarray, "row col"]]):  # type: ignore[no-untyped-def]
    """Pairs kept | dropped with their distance: a Pillow image; None when no dropped slice has a twin."""
    pairs = []
    for index in twins_to_show(decision):
        kept, dropped = (_upright(plane(int(one)), slices, int(one)) for one in (decision.twin[index], index))
        pairs.append((kept, dropped, "kept", f"dropped, distance {decision.distance[index]:.3g}"))
    return pair_sheet(pairs) if pairs else None


def pair_sheet(pairs: list[tuple[Float[np.ndarray, "_ _"], Float[np.ndarray, "_ _"], str, str]]):  # type: ignore[no-untyped-def]
    """Pairs of slices [row, col] in 0..1 with a caption above each, three pairs in a row: a Pillow image."""
    from PIL import Image, ImageDraw

    pair_width, pair_height = 2 * TILE + 3 * GAP, TILE + LINE + GAP
    sheet = Image.new("RGB", (min(len(pairs), 3) * pair_width, -(-len(pairs) // 3) * pair_height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (left_plane, right_plane, left_word, right_word) in enumerate(pairs):
        top, left = place // 3 * pair_height, place % 3 * pair_width + GAP
        for offset, plane, word, colour in (
            (0, left_plane, left_word, KEPT_COLOUR),
            (TILE + GAP, right_plane, right_word, DROPPED_COLOUR),
        ):
            tile = Image.fromarray(np.ascontiguousarray(np.round(plane * 255).astype(np.uint8)))
            scale = TILE / max(tile.size)
            tile = tile.resize((max(round(tile.width * scale), 1), max(round(tile.height * scale), 1)), Image.Resampling.BILINEAR)
            draw.text((left + offset, top), word, fill=colour)
            sheet.paste(tile.convert("RGB"), (left + offset, top + LINE))
    return sheet


def threshold_curve(thresholds: Num[np.ndarray, "n"], kept_frac: Float[np.ndarray, "n"], chosen: float | None, name: str):  # type: ignore[no-untyped-def]
    """Kept share (n,) against threshold (n,), the chosen threshold marked: a figure."""
    figure, axes = _figure(1, 1, (4.8, 3.0))
    axis = axes[0, 0]
    axis.plot(thresholds, kept_frac, color=KEPT_COLOUR, marker=".", linewidth=1.2)
    if chosen is not None:
        axis.axvline(chosen, color=DROPPED_COLOUR, linewidth=1, linestyle="--", label=f"threshold {chosen:.3g}")
        axis.legend(frameon=False, fontsize=8)
    axis.set(xlabel=f"threshold ({name})", ylabel="kept share", ylim=(0, 1.02))
    return figure


def similarity_matrix(distance: Num[np.ndarray, "n n"], name: str):  # type: ignore[no-untyped-def]
    """Distances (n, n) of the slices of one volume in anatomical order: a figure."""
    figure, axes = _figure(1, 1, (4.2, 3.6))
    image = axes[0, 0].imshow(distance, cmap="viridis_r", interpolation="nearest")
    axes[0, 0].set(xlabel="slice", ylabel="slice", title=f"distance ({name})")
    figure.colorbar(image, shrink=0.85)
    return figure


def where_dropped(place: Float[np.ndarray, "n"], keep: Bool[np.ndarray, "n"]):  # type: ignore[no-untyped-def]
    """Kept and dropped slices along the body: `place` (n,) is 0 at the first and 1 at the last slice of a volume: a figure."""
    figure, axes = _figure(1, 1, (4.8, 2.6))
    edges = np.linspace(0, 1, 21)
    dropped, _ = np.histogram(place[~keep], edges)
    kept, _ = np.histogram(place[keep], edges)
    middle = (edges[1:] + edges[:-1]) / 2
    axes[0, 0].bar(middle, kept, 0.045, color=KEPT_COLOUR, label="kept")
    axes[0, 0].bar(middle, dropped, 0.045, bottom=kept, color=DROPPED_COLOUR, label="dropped")
    axes[0, 0].set(xlabel="position along the volume (first slice 0, last 1)", ylabel="slices")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def _upright(plane: np.ndarray, slices: Slices, index: int) -> np.ndarray:
    """As a radiologist sees it: a volume's slice is stored with rows to anterior; an image of a set stays as it is."""
    return plane[::-1, ::-1] if slices.neighbours[index] else plane


def _figure(columns: int, rows: int, size: tuple[float, float]):  # type: ignore[no-untyped-def]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="tight")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)
