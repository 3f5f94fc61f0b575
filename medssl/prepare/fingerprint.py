"""The fingerprint of a prepared source: how much of what, sizes, brightness, parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from medssl.artefacts.samples import Fingerprint, Folds
from medssl.artefacts.volumes import Volume
from medssl.core.partition import PARTS
from medssl.prepare.options import SplitOptions

QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
"""Of the values of one volume; the fingerprint states their quantiles over the volumes of a modality."""


def fingerprint(
    source: str,
    volumes: Sequence[Volume],
    samples: pd.DataFrame,
    values: pd.DataFrame,
    cache: dict[str, Any],
    split: SplitOptions,
    notes: list[str],
) -> Fingerprint:
    """Summary of volumes, samples and `values`, a row per volume: volume_id, mean, sd and `p<percentile>` in value units.

    `samples` has one column more than its file: `unit_id`, which the split keeps together. `notes`: warnings for the user.
    """
    modalities = sorted({volume.modality for volume in volumes})
    of_some: dict[str, Any] = {"split": _folds(samples, split.folds, split.val_frac)} if split.folds is not None else {}
    of_some |= {"notes": notes} if notes else {}
    return Fingerprint(
        source=source,
        volumes=len(volumes),
        samples=len(samples),
        units=_units(samples),
        splits={part: _part(samples[samples["split"] == part]) for part in PARTS},
        subjects_in_two_splits=_crossing(samples),
        modalities={name: _modality([v for v in volumes if v.modality == name], samples, values) for name in modalities},
        labels=_labels(samples),
        cache=cache,
        **of_some,
    )


def _units(samples: pd.DataFrame) -> dict[str, int]:
    """The number of patients, and of images or series whose patient is unknown."""
    return {str(unit): int(group["unit_id"].nunique()) for unit, group in samples.groupby("unit")}


def _part(samples: pd.DataFrame) -> dict[str, Any]:
    return {
        "volumes": int(samples["volume_id"].nunique()),
        "samples": len(samples),
        "subjects": int(samples["subject_id"].nunique()),
        "units": _units(samples),
    }


def _folds(samples: pd.DataFrame, num_folds: int, val_frac: float) -> Folds:
    units = samples.groupby("fold")["unit_id"].nunique()
    return Folds(folds=num_folds, val_frac=val_frac, units=[int(units.get(fold, 0)) for fold in range(num_folds)])


def _crossing(samples: pd.DataFrame) -> int:
    known = samples.dropna(subset=["subject_id"])
    return int((known.groupby("subject_id")["split"].nunique() > 1).sum())


def _modality(volumes: Sequence[Volume], samples: pd.DataFrame, values: pd.DataFrame) -> dict[str, Any]:
    ids = [volume.volume_id for volume in volumes]
    own = samples[samples["volume_id"].isin(ids)]
    mine = values[values["volume_id"].isin(ids)]
    spacing = [volume.spacing_mm for volume in volumes if volume.spacing_mm is not None]
    return {
        "volumes": len(volumes),
        "samples": len(own),
        "kinds": dict(sorted(Counter(volume.kind for volume in volumes).items())),
        "slice_axes": {name: n for axis, name in enumerate("ijk") if (n := int((own["axis"] == axis).sum()))},
        "shape": _by_axis([volume.shape for volume in volumes]),
        "spacing_mm": _by_axis(spacing) if spacing else None,
        "values": {name: quantiles(mine[name]) for name in mine.columns if name != "volume_id"},
        "window_low": _by_channel([volume.low for volume in volumes]),
        "window_high": _by_channel([volume.high for volume in volumes]),
        "foreground_frac": quantiles(own["foreground_frac"]),
    }


def _by_channel(rows: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    return [quantiles(ends) for ends in np.asarray(rows, dtype=np.float64).T]


def _by_axis(rows: Sequence[Sequence[float]]) -> dict[str, dict[str, float]]:
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
