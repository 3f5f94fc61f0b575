"""Rows, sentences and studies that several tests of the page use."""

from __future__ import annotations

from markupsafe import Markup

from medssl.report.section import Section, Text

ROW = {
    "a": "simclr-hash", "b": "scratch-resnet18", "mode": "full", "fraction": 0.05, "metric": "auc", "class": "macro",
    "better": "higher",
    "difference": 0.03, "low": 0.01, "high": 0.05, "p": 0.004, "p_holm": 0.008, "n": 80, "unit": "image", "confidence": 0.95,
    "num_seeds": 3, "seeds_above": 3, "p_holm_task": 0.02,
}  # fmt: skip


def sentences(section: Section) -> str:
    """The sentences of a section."""
    return " ".join([section.lead, *(Markup("{}").format(b.html).striptags() for b in section.blocks if isinstance(b, Text))])


SCORED = {"init": "a", "mode": "full", "fraction": 1.0, "class": "organ", "confidence": 0.95, "estimate": 0.9}
