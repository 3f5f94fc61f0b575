"""The fingerprint of a prepared source: what there is, how large, how bright, in which part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
"""Of the values of one volume; the fingerprint states their quantiles over the volumes of a modality."""


def fingerprint(
    source: str, volumes: pd.DataFrame, samples: pd.DataFrame, values: pd.DataFrame, cache: dict[str, Any]
) -> dict[str, Any]:
    """Summary of both tables and of `values`, a row per volume: volume_id, mean, sd and `p<percentile>` in value units.

    `samples` carries one column more than its file: `unit_id`, what the split keeps together.
    """
    return {
        "source": source,
        "volumes": len(volumes),
        "samples": len(samples),
        "units": _units(samples),
        "splits": {part: _part(samples[samples["split"] == part]) for part in ("train", "val", "test")},
        "subjects_in_two_splits": _crossing(samples),
        "modalities": {name: _modality(group, samples, values) for name, group in volumes.groupby("modality")},
        "labels": _labels(samples),
        "cache": cache,
    }


def _units(samples: pd.DataFrame) -> dict[str, int]:
    """How many patients there are, and how many images or series whose patient is unknown."""
    return {str(unit): int(group["unit_id"].nunique()) for unit, group in samples.groupby("unit")}


def _part(samples: pd.DataFrame) -> dict[str, Any]:
    return {
        "volumes": int(samples["volume_id"].nunique()),
        "samples": len(samples),
        "subjects": int(samples["subject_id"].nunique()),
        "units": _units(samples),
    }


def _crossing(samples: pd.DataFrame) -> int:
    known = samples.dropna(subset=["subject_id"])
    return int((known.groupby("subject_id")["split"].nunique() > 1).sum())


def _modality(volumes: pd.DataFrame, samples: pd.DataFrame, values: pd.DataFrame) -> dict[str, Any]:
    own = samples[samples["volume_id"].isin(volumes["volume_id"])]
    mine = values[values["volume_id"].isin(volumes["volume_id"])]
    spacing: list[Sequence[float]] = [cell for cell in volumes["spacing_mm"] if cell is not None]
    return {
        "volumes": len(volumes),
        "samples": len(own),
        "kinds": {str(kind): int(n) for kind, n in volumes["kind"].value_counts().sort_index().items()},
        "slice_axes": {name: n for axis, name in enumerate("ijk") if (n := int((own["axis"] == axis).sum()))},
        "shape": _by_axis(list(volumes["shape"])),
        "spacing_mm": _by_axis(spacing) if spacing else None,
        "values": {name: quantiles(mine[name]) for name in mine.columns if name != "volume_id"},
        "window_low": _by_channel(list(volumes["window_low"])),
        "window_high": _by_channel(list(volumes["window_high"])),
        "foreground_frac": quantiles(own["foreground_frac"]),
    }


def _by_channel(rows: list[Sequence[float]]) -> list[dict[str, float]]:
    return [quantiles(ends) for ends in np.asarray(rows, dtype=np.float64).T]


def _by_axis(rows: list[Sequence[float]]) -> dict[str, dict[str, float]]:
    columns = np.asarray(rows, dtype=np.float64)
    return {name: quantiles(columns[:, axis]) for axis, name in enumerate("ijk")}


def _labels(samples: pd.DataFrame) -> dict[str, dict[str, int]]:
    known = samples.dropna(subset=["label"])
    return {
        str(label): {str(part): int(n) for part, n in group["split"].value_counts().sort_index().items()}
        for label, group in known.groupby("label")
    }


def quantiles(numbers: Sequence[float] | pd.Series | np.ndarray) -> dict[str, float]:
    """Minimum, 5, 25, 50, 75, 95 % and maximum (linear between neighbours), rounded to 6 digits for people."""
    array = np.asarray(numbers, dtype=np.float64)
    return {name: float(f"{np.quantile(array, q):.6g}") for name, q in QUANTILES.items()}
