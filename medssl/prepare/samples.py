"""The table of samples: a row per slice of a volume, a row per image of an image set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from medssl.artefacts.samples import SAMPLES


def planes(
    volume_id: str, *, unit: str, kind: str, array: str, axis: int, position_mm: np.ndarray, foreground_frac: np.ndarray
) -> pd.DataFrame:
    """A row per plane along `axis`; `identified` fills in its patient, part and label."""
    count = len(foreground_frac)
    return pd.DataFrame(
        {
            "sample_id": [f"{volume_id}-{index:04d}" for index in range(count)],
            "volume_id": volume_id,
            "unit": unit,
            "kind": kind,
            "array": array,
            "axis": np.full(count, axis, dtype=np.int8),
            "index": np.arange(count, dtype=np.int32),
            "position_mm": position_mm.astype(np.float32),
            "foreground_frac": foreground_frac.astype(np.float32),
        }
    )


def identified(table: pd.DataFrame, *, subject_id: Sequence[str | None], label: Sequence[str | None]) -> pd.DataFrame:
    """The table with the patient and the label of each row."""
    return table.assign(subject_id=pd.Series(list(subject_id), dtype=object), label=pd.Series(list(label), dtype=object))


def joined(
    tables: list[pd.DataFrame], *, split: pd.Series, fold: pd.Series | None, order: pd.Series | None = None, unit_id: pd.Series
) -> pd.DataFrame:
    """All rows with their part and unit, and with fold or labelling order if there are any; in the columns and types of
    `SAMPLES`.

    `split`, `fold`, `order` and `unit_id` follow the rows of the concatenated `tables`; the result is sorted by volume and index.
    """
    given: dict[str, Any] = {"split": list(split), "unit_id": list(unit_id)}
    given |= {} if fold is None else {"fold": fold.to_numpy(np.int8)}
    given |= {} if order is None else {"label_order": pd.array(list(order), dtype="Int32")}
    table = pd.concat(tables, ignore_index=True).assign(**given)
    names = [name for name in SAMPLES.names if name in table]
    table = table.sort_values(["volume_id", "index"], kind="stable", ignore_index=True)[[*names, "unit_id"]]
    texts = [column.name for column in SAMPLES.columns if column.kind == "str"]
    return table.astype({name: pd.StringDtype("pyarrow", na_value=np.nan) for name in texts})
