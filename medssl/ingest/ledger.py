"""Rows of `series.tsv` and `rejected.tsv`, and whether too much of a source was refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from medssl.artefacts.series import SERIES
from medssl.core.errors import TooManyRefusalsError
from medssl.ingest.codes import CODES
from medssl.ingest.refusal import Answer

Row = dict[str, Any]
NO_REFUSALS = ("not_an_image", "duplicate", "dicomdir", "skipped", "other_modality")
"""Codes of files that are merely set aside and count towards no limit."""


def volume_row(volume_id: str, answer: Answer) -> Row:
    """The part of a row of `series.tsv` that depends on a volume's grid and values."""
    row: Row = dict.fromkeys(SERIES.names)
    return row | {
        "volume_id": volume_id,
        "shape": answer["shape"],
        "spacing_mm": [round(s, 6) for s in answer["spacing_mm"]],
        "affine": answer["affine"],
        "dtype": answer["dtype"],
        "slope": answer["slope"],
        "intercept": answer["intercept"],
        "orientation_source": answer["source_codes"],
        "content_sha256": answer["sha256"],
        "lossy": False,
        "resampled": False,
        "label": False,
        "warnings": answer.get("warnings", []),
    }


def remark_on_refusals(series: list[Row], rejected: list[Row]) -> list[str]:
    """A sentence if more groups of images were refused than accepted; masks count in no group of their own."""
    accepted = len({row["series_id"] for row in series})
    counts = Counter(row["code"] for row in rejected if row["code"] not in NO_REFUSALS and row["stage_of_check"] != "labels")
    refused = counts.total()
    if not refused > accepted:
        return []
    code, most = counts.most_common(1)[0]
    what = f"Only {accepted} of {accepted + refused} series, volumes or sets of pictures were accepted"
    return [f"{what}: {most} were refused as {code} ({CODES.get(code, 'by a check')}). rejected.tsv has the reason of each."]


def check_refusals(source: str, series: list[Row], rejected: list[Row], limit: float, items: Path) -> None:
    """Stop if a source was refused as a whole, or more than a share `limit` of its groups.

    Raises:
        TooManyRefusalsError: with the reasons by number of files, and the private table `items` that lists every file.
    """
    counts = Counter({row["code"]: 0 for row in rejected})
    for row in rejected:
        counts[row["code"]] += int(row["num_files"])
    reasons = ", ".join(f"{code} {number}" for code, number in counts.most_common() if number)
    if not series:
        raise TooManyRefusalsError(
            f"sources.{source}: every file was refused ({reasons or 'none was found'}; files by reason). "
            f"{items} has the reason of each file."
        )
    accepted = len({row["series_id"] for row in series})
    refused = len([row for row in rejected if row["code"] not in NO_REFUSALS])
    if refused > limit * (refused + accepted):
        raise TooManyRefusalsError(
            f"sources.{source}: {refused} of {refused + accepted} groups of files were refused, more than max_refused_frac "
            f"{limit:g} allows ({reasons}; files by reason). {items} has the reason of each file."
        )
