"""A colour for each class, the same in every figure of a page."""

from __future__ import annotations

from medssl.artefacts.predictions import PREDICTED
from medssl.report.evidence import Evidence

PALETTE = (
    (230, 159, 0), (86, 180, 233), (31, 181, 143), (232, 96, 44), (215, 127, 179), (125, 140, 255), (201, 194, 26),
    (176, 122, 255), (192, 138, 90), (143, 209, 79), (224, 62, 98), (120, 160, 170),
)  # fmt: skip
"""Seen on paper, on a dark page and on a grey image; classes beyond the last begin again.

Source: the first five near those of Okabe and Ito, "Color Universal Design", 2008.
"""


def class_tones(evidence: Evidence) -> dict[str, str]:
    """The colour class (`k0`, `k1`, …) of every class that labels, masks or scores of the page name, in the order of names."""
    names: set[str] = set()
    for samples in evidence.samples.values():
        names |= _single(samples["label"]) if "label" in samples else set()
    for overlays in evidence.overlays.values():
        names |= {name for classes in overlays["classes"] for name in classes.values()}
    for cases in evidence.cases.values():
        columns = [] if set(PREDICTED) & set(cases) else [name for name in ("target", "class") if name in cases]
        names |= {name for column in columns for name in _single(cases[column])}
    return {name: f"k{place % len(PALETTE)}" for place, name in enumerate(sorted(names, key=in_number_order))}


def rgb(tone: str) -> tuple[int, int, int]:
    """The colour of a colour class, 0 to 255."""
    return PALETTE[int(tone.removeprefix("k"))]


def rules() -> str:
    """CSS of the colour classes."""
    colours = {f"k{place}": "#{:02x}{:02x}{:02x}".format(*colour) for place, colour in enumerate(PALETTE)}
    return "\n".join(
        f"svg .line.{tone} {{ stroke: {colour}; }} svg .dot.{tone}, svg .bar.{tone}, svg .band.{tone} {{ fill: {colour}; }}"
        for tone, colour in colours.items()
    )


def in_number_order(name: str) -> str:
    """A key that puts class 2 before class 10."""
    return name.zfill(6) if name.isdigit() else name


def _single(labels: object) -> set[str]:
    """The classes of a column in which several are joined by a bar."""
    return {part for label in labels.dropna().unique() for part in str(label).split("|")}  # type: ignore[attr-defined]
