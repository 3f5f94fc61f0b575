"""How a series looks besides its colour: the shape of its points and the dashes of its line, for readers who see few colours."""

from __future__ import annotations

import re

from markupsafe import Markup

Polygon = tuple[tuple[float, float], ...]

SHAPES: tuple[Polygon, ...] = (
    (),
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
    ((0, -1.3), (1.25, 0.95), (-1.25, 0.95)),
    ((0, 1.3), (1.25, -0.95), (-1.25, -0.95)),
    ((-0.45, -1.3), (0.45, -1.3), (0.45, -0.45), (1.3, -0.45), (1.3, 0.45), (0.45, 0.45),
     (0.45, 1.3), (-0.45, 1.3), (-0.45, 0.45), (-1.3, 0.45), (-1.3, -0.45), (-0.45, -0.45)),
    ((0, -1.35), (1.3, -0.4), (0.8, 1.1), (-0.8, 1.1), (-1.3, -0.4)),
)  # fmt: skip
"""Corners about the middle, as large as a circle of radius 1; the first is that circle."""
DASHES = ("", "", "8 3", "3 3", "10 3 3 3", "1 4", "14 4")
"""Of the line with each shape; the first two lines are whole, and their colours differ in lightness."""


def place_of(tone: str) -> int:
    """Which shape and dashes a colour class has: `ref` the first, `c0` the second, and so on; classes from `k0` on likewise."""
    found = re.fullmatch(r"([ck])(\d+)", tone)
    return 0 if found is None else (int(found[2]) + (found[1] == "c")) % len(SHAPES)


def mark(tone: str, x: float, y: float, radius: float, kind: str = "dot") -> str:
    """The SVG element of a point."""
    corners = SHAPES[place_of(tone)]
    if not corners:
        return f'<circle class="{kind} {tone}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
    path = "L".join(f"{radius * a:.1f} {radius * b:.1f}" for a, b in corners)
    return f'<path class="{kind} {tone}" transform="translate({x:.1f} {y:.1f})" d="M{path}Z"/>'


def dashes(tone: str) -> str:
    """The attribute of a line's dashes; empty for a whole line."""
    found = DASHES[place_of(tone)]
    return f' stroke-dasharray="{found}"' if found else ""


def key(tone: str, x: float, y: float, *, marked: bool) -> str:
    """SVG elements of a legend's entry, 26 wide about the height `y`: with `marked` line and point, else a bar of the colour."""
    if not marked or not re.fullmatch(r"ref|[ck]\d+", tone):
        return f'<rect class="bar {tone}" x="{x:.1f}" y="{y - 2:.1f}" width="26" height="4" rx="2"/>'
    return f'<path class="line {tone}"{dashes(tone)} d="M{x:.1f} {y:.1f}h26"/>' + mark(tone, x + 13, y, 4)


def chip(tone: str, marked: bool) -> Markup:
    """A legend's entry on the page."""
    drawn = key(tone, 0, 6, marked=marked)
    return Markup(f'<svg class="key" viewBox="0 0 26 12" aria-hidden="true">{drawn}</svg>')  # noqa: S704  (no text of a table)
