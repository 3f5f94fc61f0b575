"""A prepared cohort on disk, of smooth noise that changes slowly along each volume, with twins and an image set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from medssl.core.files import sha256_file, write_json
from medssl.core.job import Job, Spec
from medssl.core.rng import rng
from medssl.core.tables import write_parquet, write_tsv
from medssl.reduce.options import ResolvedArmOptions


def smooth_volume(seed: int, shape: tuple[int, int, int] = (40, 36, 24)) -> np.ndarray:
    """int16 HU, (i, j, k): neighbours along k are similar."""
    noise = gaussian_filter(rng(seed, "volume").normal(size=shape), (3, 3, 4))
    return np.asfortranarray(np.clip(noise / noise.std() * 400, -1024, 2000).astype(np.int16))


@dataclass
class Prepared:
    """The folder of one source, and how to run the stage on it."""

    root: Path
    samples: list[str]
    volumes: list[str]

    def job(self, name: str, options: dict, **inputs: object) -> Job:
        """A job of the stage whose output folder exists."""
        out = self.root / "3_reduce" / name
        out.mkdir(parents=True, exist_ok=True)
        given = {"samples": self.samples, "volumes": self.volumes, **inputs}
        spec = Spec("reduce", name, "study", str(self.root), 7, "code", options, given, str(out))
        return Job(spec, None, 1)

    def change_samples(self, **columns: object) -> None:
        """Overwrite columns of every table of samples, and seal the folders again."""
        for path in self.samples:
            write_parquet(path, pd.read_parquet(path).assign(**columns))
            seal(Path(path).parent)

    def arm(self, reducer: str, options: dict | None = None, **arm: object) -> dict:
        """Options of an arm as its spec holds them."""
        return ResolvedArmOptions(reducer={reducer: options or {}}, **arm).model_dump(mode="json")  # type: ignore[arg-type]


def write_source(folder: Path, volumes: dict[str, np.ndarray], *, kinds: dict[str, str], splits: dict[str, str]) -> None:
    """A folder as the stage prepare leaves it."""
    (folder / "arrays").mkdir(parents=True)
    volume_rows, sample_rows = [], []
    for volume_id, array in sorted(volumes.items()):
        np.save(folder / "arrays" / f"{volume_id}.npy", array)
        kind, split = kinds.get(volume_id, "volume"), splits.get(volume_id, "train")
        volume_rows.append(
            {
                "volume_id": volume_id,
                "series_id": "s-" + volume_id[2:],
                "subject_id": "p-" + volume_id[2:],
                "unit": "patient",
                "kind": kind,
                "modality": "CT",
                "split": split,
                "array": f"arrays/{volume_id}.npy",
                "mask": None,
                "shape": json.dumps(array.shape),
                "spacing_mm": "[1.0, 1.0, 2.0]",
                "affine": json.dumps(np.eye(4).tolist()),
                "slope": 1.0,
                "intercept": 0.0,
                "window_low": [-1000.0],
                "window_high": [1000.0],
            }
        )
        for index in range(array.shape[2]):
            sample_rows.append(
                {
                    "sample_id": f"{volume_id}-{index:04d}",
                    "volume_id": volume_id,
                    "subject_id": "p-" + volume_id[2:],
                    "unit": "patient",
                    "kind": kind,
                    "split": split,
                    "array": f"arrays/{volume_id}.npy",
                    "axis": np.int8(2),
                    "index": np.int32(index),
                    "position_mm": np.float32(2.0 * index if kind == "volume" else np.nan),
                    "label": None,
                    "foreground_frac": np.float32(1.0),
                }
            )
    write_tsv(folder / "volumes.tsv", pd.DataFrame(volume_rows))
    write_parquet(folder / "samples.parquet", pd.DataFrame(sample_rows))
    seal(folder)


def seal(folder: Path) -> None:
    """Write the receipt of a source's folder as it is now."""
    files = [folder / "volumes.tsv", folder / "samples.parquet", *sorted((folder / "arrays").iterdir())]
    outputs = {str(f.relative_to(folder)): {"sha256": sha256_file(f), "size": f.stat().st_size} for f in files}
    write_json(folder / "receipt.json", {"stage": "prepare", "outputs": outputs})


def twin_of(array: np.ndarray) -> np.ndarray:
    """The same patient scanned twice: noise of a few HU."""
    noisy = array + rng(5, "noise").normal(0, 3, array.shape)
    return np.asfortranarray(np.clip(noisy, -1024, 2000).astype(np.int16))
