"""What a figure is drawn as: charts under titles, or tiles of pictures with words; each as HTML and for an SVG file."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from markupsafe import Markup, escape

from medssl.report.marks import key
from medssl.report.pictures import Picture

FILE_WIDTH = 860
GAP, LINE_HEIGHT, TITLE_HEIGHT, LEGEND_HEIGHT = 16, 16, 26, 22
LETTER = 6.2
"""How wide a letter of the words below a tile is."""

_VIEW_BOX = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')


class Drawing(Protocol):
    """A figure's body: HTML on the page (`__html__`), and parts of an SVG file."""

    def __html__(self) -> str:
        """For the page."""

    def laid_out(self) -> tuple[list[str], float]:
        """SVG elements in a column `FILE_WIDTH` wide, and the height that they take."""


@dataclass(frozen=True)
class Charts:
    """Charts, each under its title, which may be empty; `columns` is how many stand beside one another in a file."""

    charts: tuple[tuple[str, Markup], ...]
    columns: int = 1

    def __html__(self) -> str:
        if len(self.charts) == 1 and not self.charts[0][0]:
            return str(self.charts[0][1])
        panels = [_panel(title) + Markup("<div>{}</div>").format(chart) for title, chart in self.charts]
        kind = {1: "stacked", 2: "panels"}.get(self.columns, "small-charts")
        return Markup('<div class="{}">{}</div>').format(
            kind, Markup("").join(Markup('<div class="chart">{}</div>').format(panel) for panel in panels)
        )

    __str__ = __html__

    def laid_out(self) -> tuple[list[str], float]:
        """SVG elements in a column `FILE_WIDTH` wide, and the height that they take."""
        width = (FILE_WIDTH - GAP * (self.columns - 1)) / self.columns
        parts, y = [], 0.0
        for start in range(0, len(self.charts), self.columns):
            row = self.charts[start : start + self.columns]
            top = TITLE_HEIGHT if any(title for title, _ in row) else 0
            heights = []
            for place, (title, chart) in enumerate(row):
                x = place * (width + GAP)
                parts += [_text(x, y + 16, title, "box-title")] if title else []
                drawn_width, drawn_height = map(float, _VIEW_BOX.search(chart).groups())  # type: ignore[union-attr]
                heights.append(width * drawn_height / drawn_width)
                size = f'x="{x:.1f}" y="{y + top:.1f}" width="{width:.1f}" height="{heights[-1]:.1f}"'
                parts.append(str(chart).replace("<svg ", f"<svg {size} ", 1))
            y += top + max(heights) + GAP
        return parts, y


@dataclass(frozen=True)
class Tile:
    """Pictures side by side, and lines of words below them; a picture that is not to be had is None."""

    pictures: tuple[Picture | None, ...]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tiles:
    """Tiles in groups, each under its title, which may be empty; a picture is drawn `side` pixels wide."""

    groups: tuple[tuple[str, tuple[Tile, ...]], ...]
    side: int = 120

    def __html__(self) -> str:
        return "".join(
            _panel(title) + Markup('<div class="tiles">{}</div>').format(Markup("").join(map(self._tile, tiles)))
            for title, tiles in self.groups
        )

    __str__ = __html__

    def _tile(self, tile: Tile) -> Markup:
        empty = Markup('<span class="no-picture">no picture</span>')
        pictures = Markup("").join(empty if one is None else Markup(one.__html__()) for one in tile.pictures)  # noqa: S704
        lines = Markup("").join(Markup("<span>{}</span>").format(line) for line in tile.lines)
        count = len(tile.pictures)
        return Markup('<div class="tile" style="--side: {}px; --count: {}"><div class="row">{}</div>{}</div>').format(
            self.side, count, pictures, lines
        )

    def laid_out(self) -> tuple[list[str], float]:
        """SVG elements in a column `FILE_WIDTH` wide, and the height that they take."""
        parts, y = [], 0.0
        for title, tiles in self.groups:
            if title:
                parts.append(_text(0, y + 16, title, "box-title"))
                y += TITLE_HEIGHT
            width = self.side * max((len(tile.pictures) for tile in tiles), default=1) + GAP
            columns = max(1, int((FILE_WIDTH + GAP) // width))
            for start in range(0, len(tiles), columns):
                row = tiles[start : start + columns]
                heights = [_tile_parts(parts, place * width, y, tile, self.side) for place, tile in enumerate(row)]
                y += max(heights) + GAP
        return parts, y


@dataclass(frozen=True)
class Sheets:
    """Pictures that a stage drew, as wide as the page, each under its title, which may be empty."""

    sheets: tuple[tuple[str, Picture], ...]

    def __html__(self) -> str:
        return "".join(_panel(title) + picture.__html__() for title, picture in self.sheets)

    __str__ = __html__

    def laid_out(self) -> tuple[list[str], float]:
        """SVG elements in a column `FILE_WIDTH` wide, and the height that they take."""
        parts, y = [], 0.0
        for title, picture in self.sheets:
            if title:
                parts.append(_text(0, y + 16, title, "box-title"))
                y += TITLE_HEIGHT
            width = min(FILE_WIDTH, picture.width)
            height = width * picture.height / picture.width
            parts.append(_image(picture, 0, y, width, height))
            y += height + GAP
        return parts, y


def one_chart(chart: Markup) -> Charts:
    """A figure of one chart."""
    return Charts((("", chart),))


def svg_file(drawing: Drawing, caption: str, legend: Sequence[tuple[str, str]], style: str) -> str:
    """A figure as an SVG file that stands alone: legend, drawing, and the caption as its title; `style`: rules of charts."""
    parts, y = _legend(legend, marked=isinstance(drawing, Charts))
    drawn, height = drawing.laid_out()
    caption_lines = textwrap.wrap(caption, int(FILE_WIDTH / LETTER))
    parts += [f'<g transform="translate(0 {y:.1f})">', *drawn, "</g>"]
    y += height
    parts += [_text(0, y + LINE_HEIGHT * (n + 1), line, "label") for n, line in enumerate(caption_lines)]
    y += LINE_HEIGHT * len(caption_lines)
    margin = 12
    view = f"{-margin} {-margin} {FILE_WIDTH + 2 * margin} {y + 2 * margin:.0f}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" width="{FILE_WIDTH + 2 * margin}" '
        f'height="{y + 2 * margin:.0f}"><title>{escape(caption)}</title><style>{style}</style>'
        f'<rect x="{-margin}" y="{-margin}" width="100%" height="100%" fill="#ffffff"/>'
    )
    return head + "".join(map(str, parts)) + "</svg>\n"


def resolved(style: str, colours: str) -> str:
    """Rules of charts with the values of the first `:root` of `colours` in place of its variables: many programs know none."""
    values = dict(re.findall(r"--([a-z0-9-]+):\s*(#[0-9a-f]+)", colours.split("}", 1)[0]))
    return re.sub(r"var\(--([a-z0-9-]+)\)", lambda found: values[found[1]], style)


def _panel(title: str) -> Markup:
    return Markup('<p class="panel">{}</p>').format(title) if title else Markup("")


def _legend(legend: Sequence[tuple[str, str]], *, marked: bool) -> tuple[list[str], float]:
    """Entries side by side, broken into lines of at most the file's width; and the height that they take."""
    parts, x, y = [], 0.0, 0.0
    for tone, label in legend:
        width = 32 + LETTER * 1.1 * len(label) + 20
        if x and x + width > FILE_WIDTH:
            x, y = 0.0, y + LEGEND_HEIGHT
        parts += [key(tone, x, y + 8, marked=marked), _text(x + 32, y + 12, label, "value")]
        x += width
    return parts, y + LEGEND_HEIGHT + 6 if legend else 0.0


def _tile_parts(parts: list[str], x: float, y: float, tile: Tile, side: int) -> float:
    """The SVG elements of a tile, added to `parts`; returns its height."""
    height = 0.0
    for place, picture in enumerate(tile.pictures):
        if picture is not None:
            tall = side * picture.height / picture.width
            parts.append(_image(picture, x + place * side, y, side, tall))
            height = max(height, tall)
    letters = int(side * len(tile.pictures) / LETTER)
    lines = [part for line in tile.lines for part in textwrap.wrap(line, letters)]
    parts += [_text(x, y + height + LINE_HEIGHT * (n + 0.8), line, "tick") for n, line in enumerate(lines)]
    return height + LINE_HEIGHT * len(lines)


def _image(picture: Picture, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" href="{picture.uri}">'
        f"<title>{escape(picture.alt)}</title></image>"
    )


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
