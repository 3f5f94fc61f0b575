"""Tables as data frames in files: TSV for people (`text_table.py`), Parquet for a row per slice. Equal content gives
equal bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from medssl.core.files import write_text, writing
from medssl.core.text_table import MISSING, text_of


def write_tsv(target: Path | str, rows: pd.DataFrame) -> None:
    """Write a table: tab separated, `n/a` for missing, `true|false`, lists as JSON, floats with full precision."""
    write_text(target, tsv_text(rows))


def tsv_text(rows: pd.DataFrame) -> str:
    """The text of a table, as `write_tsv` writes it."""
    cells = cells_of(rows)
    return text_of(list(cells), zip(*cells.values(), strict=True))


def cells_of(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """The columns of a table as plain values, None for missing ones."""
    return {str(name): _plain(frame[name]) for name in frame.columns}


def _plain(column: pd.Series) -> list[Any]:
    known = column.astype(object).where(column.notna(), None)
    return [value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value for value in known]


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
