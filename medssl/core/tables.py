"""Tables: TSV for people, Parquet for a row per slice. Equal content is equal bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from medssl.core.files import writing

MISSING = "n/a"


def write_tsv(target: Path | str, rows: pd.DataFrame) -> None:
    """Write a table: tab separated, `n/a` for missing, `true|false`, lists as JSON, floats with full precision."""
    with writing(target) as temporary:
        temporary.write_text(tsv_text(rows), encoding="utf-8")


def tsv_text(rows: pd.DataFrame) -> str:
    """The text of a table, as `write_tsv` writes it."""
    lines = ["\t".join(rows.columns)]
    lines += ["\t".join(map(_cell, row)) for row in rows.itertuples(index=False, name=None)]
    return "\n".join(lines) + "\n"


def read_tsv(path: Path | str, *, text: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a table written by `write_tsv`; numbers become numbers, `true|false` booleans, `n/a` missing.

    Columns named in `text` (and every `*_id`) stay text.
    """
    raw = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=3, encoding="utf-8")
    for name in raw.columns:
        column = raw[name].replace(MISSING, pd.NA)
        known = column.dropna()
        if name in text or name.endswith("_id"):
            raw[name] = column.astype(object).where(column.notna(), None)
        elif len(known) and known.isin(["true", "false"]).all():
            raw[name] = column.map({"true": True, "false": False})
        else:
            numbers = pd.to_numeric(column, errors="coerce")
            raw[name] = numbers if numbers.notna().sum() == len(known) else column.astype(object).where(column.notna(), None)
    return raw


def write_parquet(target: Path | str, rows: pd.DataFrame) -> None:
    """Write a table as Parquet (zstd), all or nothing."""
    with writing(target) as temporary:
        rows.to_parquet(temporary, engine="pyarrow", compression="zstd", index=False)


def read_parquet(path: Path | str, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a Parquet table, or some of its columns."""
    return pd.read_parquet(path, engine="pyarrow", columns=columns)


def _cell(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, sort_keys=True)
    text = repr(value) if isinstance(value, float) else str(value)
    return text.replace("\t", " ").replace("\n", " ").replace("\r", " ")
