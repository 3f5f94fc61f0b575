"""`series.tsv` and `rejected.tsv`: their columns, and rows as tables and back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from medssl.core.errors import TooManyRefusalsError
from medssl.ingest.refusal import Answer

SERIES_COLUMNS = [
    "volume_id", "series_id", "subject_id", "unit", "kind", "format", "modality", "shape", "spacing_mm", "affine", "dtype",
    "slope", "intercept", "orientation_source", "num_files", "bytes", "content_sha256", "lossy", "tilt_deg", "resampled",
    "time_index", "kernel", "kvp", "slice_thickness_mm", "manufacturer_code", "age_years", "sex", "label", "warnings",
]  # fmt: skip
REJECTED_COLUMNS = ["item_id", "code", "sentence", "num_files", "bytes", "stage_of_check"]
TEXT_COLUMNS = ("code", "sentence", "dtype", "kernel", "sex", "orientation_source", "content_sha256", "manufacturer_code")
_JSON_COLUMNS = ("shape", "spacing_mm", "affine", "warnings")

Row = dict[str, Any]


def volume_row(volume_id: str, answer: Answer) -> Row:
    """A row of `series.tsv` as far as the grid and values of a volume say it."""
    row: Row = dict.fromkeys(SERIES_COLUMNS)
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


def ledger_table(rows: list[Row], columns: list[str], by: str) -> pd.DataFrame:
    """Rows sorted by id; whole numbers stay whole beside missing ones."""
    ordered = sorted(rows, key=lambda row: str(row[by]))
    table = pd.DataFrame({name: pd.Series([row[name] for row in ordered], dtype=object) for name in columns})
    for name in ("time_index", "age_years", "num_files", "bytes"):
        if name in table:
            table[name] = table[name].astype("Int64")
    return table.astype(object).where(table.notna(), None)


def ledger_rows(table: pd.DataFrame) -> list[Row]:
    """Rows of a ledger read back; lists are lists again."""
    rows = records(table)
    for row in rows:
        for name in _JSON_COLUMNS:
            if isinstance(row.get(name), str):
                row[name] = json.loads(row[name])
    return rows


def records(table: pd.DataFrame) -> list[Row]:
    """The rows of any table as plain dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def check_refusals(source: str, series: list[Row], rejected: list[Row], limit: float, shards: Path) -> None:
    """Stop where a source was refused as a whole, or more of it than a share `limit` of its groups.

    Raises:
        TooManyRefusalsError: with the reasons by number of files, and the folder `shards` that has them in full.
    """
    counts = Counter({row["code"]: 0 for row in rejected})
    for row in rejected:
        counts[row["code"]] += int(row["num_files"])
    reasons = ", ".join(f"{code} {number}" for code, number in counts.most_common() if number)
    if not series:
        raise TooManyRefusalsError(
            f"sources.{source}: every file was refused ({reasons or 'none was found'}; files by reason). "
            f"The reasons in full: {shards}/*/rejected.tsv."
        )
    accepted = len({row["series_id"] for row in series})
    refused = len([row for row in rejected if row["code"] not in ("not_an_image", "duplicate", "dicomdir", "skipped")])
    if refused > limit * (refused + accepted):
        raise TooManyRefusalsError(
            f"sources.{source}: {refused} of {refused + accepted} groups of files were refused, more than max_refused_frac "
            f"{limit:g} allows ({reasons}; files by reason). The reasons in full: {shards}/*/rejected.tsv."
        )
