"""Charts as inline SVG: they follow the page's colours in light and dark, print sharply, and are equal for equal tables."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from medssl.report.marks import dashes, mark

WIDTH = 680
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 12, 46
MOST_OF_LABELS = 330
"""Of a forest chart's width, so that the intervals keep a third."""
LEAST_OF_VALUES = 120
"""How wide the column of values is at least."""
TICK_LETTERS, LETTER = 4, 7
"""Letters of a tick that have room at the left, and how wide another is."""
LINE_HEIGHT = 15


@dataclass(frozen=True)
class Line:
    """A series: points (x, y), perhaps with intervals (low, high) and sizes in (0, 1]; `tone` is its colour class.

    band: (low, high) around each point, as an area.
    """

    name: str
    tone: str
    points: tuple[tuple[float, float], ...]
    intervals: tuple[tuple[float, float], ...] = ()
    tips: tuple[str, ...] = ()
    markers: bool = True
    sizes: tuple[float, ...] = ()
    band: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Axis:
    """An axis: its label, range, ticks (value, text); `log` spaces it by ratio."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 at `low` and 1 at `high`."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


def axis(label: str, values: Sequence[float], *, include: Sequence[float] = (), num_ticks: int = 5, whole: bool = False) -> Axis:
    """A linear axis that holds all finite values, with round ticks; `whole`: of what is counted, so at whole numbers."""
    known = [v for v in [*values, *include] if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if low == high:
        low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    step = _round_step((high - low) / num_ticks)
    step = float(math.ceil(step)) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if abs(step / 10**-digits - round(step / 10**-digits)) > 1e-6:
        digits += 1
    ticks = tuple((i * step, f"{i * step:.{digits}f}".replace("-", "−")) for i in range(first, last + 1))
    return Axis(label, min(first * step, low), max(last * step, high), ticks)


def category_axis(label: str, values: Sequence[float], texts: Sequence[str], *, log: bool) -> Axis:
    """An axis with a tick at each of a few values, and room on both sides."""
    low, high = min(values), max(values)
    if low == high:
        return Axis(label, low - 1, high + 1, tuple(zip(values, texts, strict=True)))
    if log:
        room = (high / low) ** 0.07
        return Axis(label, low / room, high * room, tuple(zip(values, texts, strict=True)), True)
    room = (high - low) * 0.07
    return Axis(label, low - room, high + room, tuple(zip(values, texts, strict=True)))


def line_chart(lines: Sequence[Line], x: Axis, y: Axis, *, alt: str, height: int = 300, width: int = WIDTH) -> Markup:
    """Lines with whiskers for intervals; several series are moved a little sideways so that whiskers do not hide one another."""
    frame = _Frame(x, y, width, height)
    parts = frame.grid()
    parts += [_area(frame, line) for line in lines if line.band]
    for place, line in enumerate(lines):
        nudge = (place - (len(lines) - 1) / 2) * 5 if line.intervals else 0.0
        spots = [(frame.x(a) + nudge, frame.y(b)) for a, b in line.points]
        drawn = [(f"{a:.1f}", f"{b:.1f}") for (a, b), (_, v) in zip(spots, line.points, strict=True) if math.isfinite(v)]
        if len(drawn) > 1:
            path = " ".join(f"{'M' if i == 0 else 'L'}{a} {b}" for i, (a, b) in enumerate(drawn))
            parts.append(f'<path class="line {line.tone}"{dashes(line.tone)} d="{path}"/>')
        for i, (a, b) in enumerate(spots):
            if not math.isfinite(line.points[i][1]):
                continue
            tip = f"<title>{escape(line.tips[i])}</title>" if line.tips else ""
            whisker = ""
            if line.intervals and all(map(math.isfinite, line.intervals[i])):
                low, high = (frame.y(v) for v in line.intervals[i])
                whisker = f'<path class="whisker {line.tone}" d="M{a:.1f} {low:.1f}V{high:.1f}"/>'
            radius = 1.5 + 4.5 * line.sizes[i] ** 0.5 if line.sizes else 3.6
            if line.markers:
                parts.append(f"<g>{tip}{whisker}{mark(line.tone, a, b, radius)}</g>")
    return _svg(parts, width, height, alt)


def scatter_chart(groups: Sequence[Line], x: Axis, y: Axis, *, alt: str, height: int = 380, width: int = WIDTH) -> Markup:
    """Points alone, a colour and a shape for each group."""
    frame = _Frame(x, y, width, height)
    dots = [mark(group.tone, frame.x(a), frame.y(b), 3.4, "dot small") for group in groups for a, b in group.points]
    return _svg([*frame.grid(), *dots], width, height, alt)


def _area(frame: _Frame, line: Line) -> str:
    """The band of a line, there and back."""
    ends = [(x, low, high) for (x, _), (low, high) in zip(line.points, line.band, strict=True) if math.isfinite(low + high)]
    there = [f"{frame.x(x):.1f} {frame.y(high):.1f}" for x, _, high in ends]
    back = [f"{frame.x(x):.1f} {frame.y(low):.1f}" for x, low, _ in reversed(ends)]
    return f'<path class="band {line.tone}" d="M{"L".join(there + back)}Z"/>' if ends else ""


@dataclass(frozen=True)
class ForestRow:
    """A row of a forest chart."""

    label: str
    tone: str
    estimate: float
    low: float
    high: float
    text: str


def forest_chart(rows: Sequence[ForestRow], x: Axis, *, alt: str, zero: float | None = 0.0, label_width: int = 220) -> Markup:
    """Estimates with intervals, one below the other, around a line at `zero`; long labels widen their column, and longer ones
    have several lines.
    """
    width, split = WIDTH, any(LETTER * len(row.label) + 16 > MOST_OF_LABELS for row in rows)
    labels = [_in_lines(row.label) if split else [row.label] for row in rows]
    row_height = max(26, *(10 + LINE_HEIGHT * len(lines) for lines in labels))
    text_width = max([LEAST_OF_VALUES, *(int(LETTER * len(row.text)) + 16 for row in rows)])
    label_width = min(MOST_OF_LABELS, max(label_width, *(int(LETTER * len(row.label)) + 16 for row in rows)))
    height = TOP + row_height * len(rows) + BOTTOM
    left, right = label_width, width - text_width
    bottom = height - BOTTOM

    def across(value: float) -> float:
        return left + min(1.0, max(0.0, x.place(value))) * (right - left)

    parts = [f'<line class="grid" x1="{across(v):.1f}" x2="{across(v):.1f}" y1="{TOP}" y2="{bottom}"/>' for v, _ in x.ticks]
    parts += [f'<text class="tick" x="{across(v):.1f}" y="{bottom + 18}" text-anchor="middle">{t}</text>' for v, t in x.ticks]
    parts.append(
        f'<text class="label" x="{(left + right) / 2:.1f}" y="{height - 6}" text-anchor="middle">{escape(x.label)}</text>'
    )
    if zero is not None and x.low <= zero <= x.high:
        parts.append(f'<line class="zero" x1="{across(zero):.1f}" x2="{across(zero):.1f}" y1="{TOP}" y2="{bottom}"/>')
    for i, row in enumerate(rows):
        y = TOP + row_height * (i + 0.5)
        for number, line in enumerate(labels[i]):
            down = y + 4 + LINE_HEIGHT * (number - (len(labels[i]) - 1) / 2)
            parts.append(f'<text class="row" x="{left - 12}" y="{down:.1f}" text-anchor="end">{escape(line)}</text>')
        if math.isfinite(row.low) and math.isfinite(row.high):
            parts.append(f'<path class="whisker {row.tone}" d="M{across(row.low):.1f} {y:.1f}H{across(row.high):.1f}"/>')
        if math.isfinite(row.estimate):
            parts.append(mark(row.tone, across(row.estimate), y, 4.2))
        parts.append(f'<text class="value" x="{right + 12}" y="{y + 4:.1f}">{escape(row.text)}</text>')
    return _svg(parts, width, height, alt)


def _in_lines(label: str) -> list[str]:
    """A long label: what stands before a colon, then the rest, in lines that have room."""
    most = (MOST_OF_LABELS - 16) // LETTER
    return [line for part in label.rsplit(": ", 1) for line in textwrap.wrap(part, most, break_on_hyphens=False)]


@dataclass(frozen=True)
class StackedBar:
    """A row of a bar chart, made of parts (length, colour class, tip)."""

    label: str
    parts: tuple[tuple[float, str, str], ...]
    text: str


def bar_chart(rows: Sequence[StackedBar], *, alt: str, label_width: int = 190, text_width: int = 150) -> Markup:
    """Horizontal stacked bars on a common scale, labelled at the end, without an axis."""
    row_height, width = 28, WIDTH
    longest = max((sum(length for length, _, _ in row.parts) for row in rows), default=0) or 1
    room = width - label_width - text_width
    parts = []
    for i, row in enumerate(rows):
        y, start = 4 + row_height * i, float(label_width)
        parts.append(f'<text class="row" x="{label_width - 12}" y="{y + 16}" text-anchor="end">{escape(row.label)}</text>')
        for length, tone, tip in row.parts:
            wide = room * length / longest
            parts.append(
                f'<rect class="bar {tone}" x="{start:.1f}" y="{y}" width="{wide:.1f}" height="20" rx="2">'
                f"<title>{escape(tip)}</title></rect>"
            )
            start += wide
        parts.append(f'<text class="value" x="{start + 10:.1f}" y="{y + 15}">{escape(row.text)}</text>')
    return _svg(parts, width, 8 + row_height * len(rows), alt)


@dataclass(frozen=True)
class _Frame:
    x_axis: Axis
    y_axis: Axis
    width: int
    height: int

    @property
    def left(self) -> float:
        """Room for the longest tick of the upright axis."""
        return LEFT + LETTER * max(0, max(len(text) for _, text in self.y_axis.ticks) - TICK_LETTERS)

    def x(self, value: float) -> float:
        return self.left + self.x_axis.place(value) * (self.width - self.left - RIGHT)

    def y(self, value: float) -> float:
        inside = min(1.02, max(-0.02, self.y_axis.place(value)))
        return self.height - BOTTOM - inside * (self.height - TOP - BOTTOM)

    def grid(self) -> list[str]:
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        parts = []
        for value, text in self.y_axis.ticks:
            y, left = self.y(value), self.left
            parts.append(f'<line class="grid" x1="{left:g}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{left - 8:g}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>')
        for value, text in self.x_axis.ticks:
            parts.append(
                f'<text class="tick" x="{self.x(value):.1f}" y="{bottom + 18}" text-anchor="middle">{escape(text)}</text>'
            )
        middle = (self.left + right) / 2
        parts.append(f'<line class="base" x1="{self.left:g}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        parts.append(
            f'<text class="label" x="{middle:.1f}" y="{self.height - 6}" text-anchor="middle">{escape(self.x_axis.label)}</text>'
        )
        up = (TOP + bottom) / 2
        room = min(1.0, bottom / (LETTER * max(1, len(self.y_axis.label))))
        size = f' style="font-size: {12 * room:.1f}px"' if room < 1 else ""  # beyond its chart a page may end
        parts.append(
            f'<text class="label"{size} x="14" y="{up:.1f}" text-anchor="middle" transform="rotate(-90 14 {up:.1f})">'
            f"{escape(self.y_axis.label)}</text>"
        )
        return parts


def _svg(parts: Sequence[str], width: int, height: float, alt: str) -> Markup:
    head = f'<svg viewBox="0 0 {width} {height:g}" role="img" aria-label="{escape(alt)}">'
    return Markup(head + "".join(parts) + "</svg>")  # noqa: S704  (texts are escaped where they enter)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))
