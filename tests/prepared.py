"""A prepared folder made in a test: arrays, volumes.tsv, samples.parquet, keep.parquet and receipts, as the contract says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.artefacts.volumes import Volume
from medssl.core import tables
from medssl.core.files import sha256_file, write_json


def phantom(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """A body-like int16 volume: an ellipse with organs that change along k, in HU."""
    random = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, s) for s in shape], indexing="ij")
    values = np.where((i / 0.9) ** 2 + (j / 0.7) ** 2 < 1, 40.0, -1000.0)
    for _ in range(6):
        centre, radius = random.uniform(-0.6, 0.6, 3), random.uniform(0.1, 0.4)
        inside = (i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (0.4 * (k - centre[2])) ** 2 < radius**2
        values = np.where(inside, random.uniform(-900, 900), values)
    return np.asfortranarray((values + random.normal(0, 20, shape)).astype(np.int16))


def write_prepared(
    folder: Path,
    *,
    volumes: int = 3,
    shape: tuple[int, int, int] = (24, 20, 8),
    windows: int = 1,
    seed: int = 0,
    vary: bool = False,
    labels: tuple[str, ...] = (),
) -> dict[str, str]:
    """Write `folder`/2_prepare/ct and `folder`/3_reduce; returns the paths a pretrain spec takes as inputs.

    `labels` are given to the volumes in turn.
    """
    prepare, reduce = folder / "2_prepare" / "ct", folder / "3_reduce" / "ct" / "all"
    (prepare / "arrays").mkdir(parents=True)
    reduce.mkdir(parents=True)
    rows, samples = [], []
    for v in range(volumes):
        label = labels[v % len(labels)] if labels else None
        size = (shape[0] + 2 * v, shape[1] + v, shape[2]) if vary else shape
        name = f"v-{seed:04x}{v:08x}"
        np.save(prepare / "arrays" / f"{name}.npy", phantom(seed * 100 + v, size))
        rows.append(
            {
                "volume_id": name, "series_id": "s" + name[1:], "subject_id": "p" + name[1:], "unit": "patient", "kind": "volume",
                "modality": "CT", "split": "train", "array": f"arrays/{name}.npy", "mask": None, "shape": list(size),
                "spacing_mm": [1.0, 1.0, 2.5], "affine": np.diag([1, 1, 2.5, 1]).tolist(), "slope": 1.0, "intercept": 0.0,
                "window_low": [-1000.0, -160.0][:windows], "window_high": [1000.0, 240.0][:windows],
            }
        )  # fmt: skip
        samples += [
            {
                "sample_id": f"{name}-{k:04d}", "volume_id": name, "subject_id": "p" + name[1:], "unit": "patient",
                "kind": "volume", "split": "train", "array": f"arrays/{name}.npy", "axis": np.int8(2), "index": np.int32(k),
                "position_mm": np.float32(2.5 * k), "label": label, "foreground_frac": np.float32(0.5),
            }
            for k in range(size[2])
        ]  # fmt: skip
    tables.write_tsv(prepare / "volumes.tsv", pd.DataFrame(rows))
    tables.write_parquet(prepare / "samples.parquet", pd.DataFrame(samples))
    receipt(prepare, "prepare")
    keep = pd.DataFrame({"sample_id": [s["sample_id"] for s in samples], "keep": True})
    tables.write_parquet(reduce / "keep.parquet", keep)
    receipt(reduce, "reduce")
    return {
        "samples": [str(prepare / "samples.parquet")],
        "volumes": [str(prepare / "volumes.tsv")],
        "arrays": [str(prepare / "arrays")],
        "keep": str(reduce / "keep.parquet"),
    }  # type: ignore[dict-item]


def made_volume(volume_id: str, array: Path, shape: tuple[int, int, int], **fields: Any) -> Volume:
    """A training CT volume of a patient; `fields` say what is otherwise."""
    usual: dict[str, Any] = {
        "series_id": None, "subject_id": None, "unit": "patient", "kind": "volume", "modality": "CT", "split": "train",
        "mask": None, "spacing_mm": None, "affine": None, "slope": 1.0, "intercept": 0.0, "low": (-1000.0,), "high": (1000.0,),
    }  # fmt: skip
    return Volume(volume_id=volume_id, array=array, shape=shape, **usual | fields)


def receipt(folder: Path, stage: str) -> None:
    """The receipt of a folder: hashes of all it holds."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "receipt.json"]
    outputs = {str(p.relative_to(folder)): {"sha256": sha256_file(p), "size": p.stat().st_size} for p in files}
    write_json(folder / "receipt.json", {"stage": stage, "outputs": outputs})
