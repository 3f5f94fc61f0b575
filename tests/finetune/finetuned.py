"""What tests ask of a finished task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from medssl.artefacts.volumes import Volume


def scratch_model(out: Path) -> Path:
    """The model folder of the one scratch of a task."""
    (folder,) = (out / "models").glob("scratch-*")
    return folder


def typed(samples: pd.DataFrame) -> pd.DataFrame:
    """Rows of samples.parquet in the types of the table; positions and foreground are made up."""
    more = {"position_mm": np.float32(0), "foreground_frac": np.float32(1)}
    return samples.assign(**more).astype({"axis": np.int8, "index": np.int32})


def volume(volume_id: str, shape: tuple[int, int, int], low: float, high: float, affine: np.ndarray | None = None) -> Volume:
    """A prepared MR volume whose stored numbers are its values."""
    rows = tuple(map(tuple, (np.eye(4) if affine is None else affine).tolist()))
    return Volume(
        *(volume_id, None, None, "patient", "volume", "MR", "train", Path(volume_id), None, shape),
        *((1.0, 1.0, 1.0), rows, 1.0, 0.0, (low,), (high,)),
    )  # fmt: skip
