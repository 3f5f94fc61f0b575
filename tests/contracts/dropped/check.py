"""Whether a series has an even number of slices."""

from __future__ import annotations

from medssl.ingest.check import Finding, Series

APPLIES_TO = ("CT",)
CODES = ("odd_slices",)
SENTENCES = {"odd_slices": "an odd number of slices"}


def even_slices(series: Series) -> Finding | None:
    """An odd number of slices is worth a warning."""
    count = series.values.shape[2]
    return Finding("odd_slices", f"{count} slices", refuse=False) if count % 2 else None
