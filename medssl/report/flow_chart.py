"""The flow of images as boxes: what went on below one another, what was set aside beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

from medssl.report.chart import WIDTH

LINE_HEIGHT = 19
MAIN_WIDTH, GAP = 330, 46
LINE_LETTERS = 46
"""How much of a line a box holds; longer ones are broken."""


@dataclass(frozen=True)
class Step:
    """A box of the main column and, beside it, what left the flow there (title, then lines).

    Alternatives that follow one another all come from the step before the first of them.
    """

    title: str
    lines: tuple[str, ...]
    aside_title: str = ""
    aside: tuple[str, ...] = ()
    alternative: bool = False


def flow_chart(steps: Sequence[Step], *, alt: str) -> Markup:
    """Boxes with arrows downwards and, where something was set aside, to the right."""
    parts, y = [], 2.0
    marker = '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    parts.append(marker + '<path class="arrow-head" d="M0 0L8 4L0 8z"/></marker></defs>')
    for place, step in enumerate([_broken(step) for step in steps]):
        height = 20 + LINE_HEIGHT * max(1 + len(step.lines), (1 + len(step.aside)) if step.aside_title else 0)
        if step.alternative and steps[place - 1].alternative:
            y -= 12
        elif place:
            parts.append(f'<path class="arrow" marker-end="url(#arrow)" d="M{MAIN_WIDTH / 2} {y - 22:.0f}V{y - 2:.0f}"/>')
        parts += _box(2, y, MAIN_WIDTH - 2, height, step.title, step.lines, "box")
        if step.aside_title:
            middle = y + 24
            parts.append(f'<path class="arrow" marker-end="url(#arrow)" d="M{MAIN_WIDTH} {middle:.0f}H{MAIN_WIDTH + GAP - 3}"/>')
            parts += _box(MAIN_WIDTH + GAP, y, WIDTH - MAIN_WIDTH - GAP - 2, height, step.aside_title, step.aside, "box aside")
        y += height + 24
    view = f'<svg viewBox="0 0 {WIDTH} {y - 20:.0f}" role="img" aria-label="{escape(alt)}">'
    return Markup(view + "".join(parts) + "</svg>")  # noqa: S704  (texts are escaped where they enter)


def _broken(step: Step) -> Step:
    return replace(step, lines=_wrapped(step.lines), aside=_wrapped(step.aside))


def _wrapped(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for line in lines for part in textwrap.wrap(line, LINE_LETTERS))


def _box(x: float, y: float, width: float, height: float, title: str, lines: Sequence[str], kind: str) -> list[str]:
    parts = [f'<rect class="{kind}" x="{x}" y="{y:.0f}" width="{width}" height="{height:.0f}" rx="7"/>']
    parts.append(f'<text class="box-title" x="{x + 14}" y="{y + 25:.0f}">{escape(title)}</text>')
    for i, line in enumerate(lines):
        parts.append(f'<text class="box-line" x="{x + 14}" y="{y + 25 + LINE_HEIGHT * (i + 1):.0f}">{escape(line)}</text>')
    return parts
