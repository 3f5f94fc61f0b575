"""A hand-written ingest folder that follows docs/reference/artefacts.md, so that stage prepare is tested without stage ingest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medssl.artefacts.series import SERIES
from medssl.core.files import write_json
from medssl.core.job import Spec, job
from medssl.core.tables import write_parquet
from medssl.prepare.options import PrepareOptions
from medssl.prepare.run import run


def receipt(folder: Path, stage: str, paths: list[Path]) -> None:
    import hashlib

    outputs = {
        str(p.relative_to(folder)): {"sha256": hashlib.sha256(p.read_bytes()).hexdigest(), "size": p.stat().st_size}
        for p in paths
    }
    write_json(folder / "receipt.json", {"stage": stage, "outputs": outputs})


class Ingested:
    """Builds `1_ingest/<source>` by hand and runs prepare on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "1_ingest" / "ct"
        self.rows: list[dict[str, Any]] = []
        self.files: list[Path] = []

    def volume(
        self,
        volume_id: str,
        array: np.ndarray,
        *,
        subject_id: str | None = None,
        modality: str = "CT",
        spacing: tuple[float, float, float] | None = (1.0, 1.0, 5.0),
        slope: float = 1.0,
        intercept: float = 0.0,
        mask: np.ndarray | None = None,
        images: pd.DataFrame | None = None,
    ) -> None:
        place = self.folder / "volumes" / volume_id
        place.mkdir(parents=True)
        np.save(place / "image.npy", np.asfortranarray(array))
        self.files.append(place / "image.npy")
        if mask is not None:
            np.save(place / "mask.npy", np.asfortranarray(mask))
            self.files.append(place / "mask.npy")
        if images is not None:
            write_parquet(place / "images.parquet", images)
            self.files.append(place / "images.parquet")
        nothing = dict.fromkeys(SERIES.names)
        self.rows.append(
            nothing
            | {
                "volume_id": volume_id,
                "series_id": volume_id.replace("v-", "s-"),
                "subject_id": subject_id,
                "unit": "patient" if subject_id or (images is not None and images["subject_id"].notna().any()) else "image",
                "kind": "volume" if images is None else "images",
                "format": "dicom",
                "modality": modality,
                "shape": list(array.shape),
                "spacing_mm": None if spacing is None else list(spacing),
                "affine": np.diag([*(spacing or (1.0, 1.0, 1.0)), 1.0]).tolist(),
                "dtype": str(array.dtype),
                "slope": slope,
                "intercept": intercept,
                "num_files": 1,
                "bytes": array.nbytes,
                "content_sha256": "0",
                "lossy": False,
                "resampled": False,
                "label": mask is not None,
                "warnings": [],
            }
        )

    def prepare(self, *, seed: int = 0, threads: int = 1, **settings: Any) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        SERIES.write_rows(self.folder / "series.tsv", self.rows)
        receipt(self.folder, "ingest", [*self.files, self.folder / "series.tsv"])
        return self.again(seed=seed, threads=threads, **settings)

    def again(self, *, seed: int = 0, threads: int = 1, **settings: Any) -> Path:
        out = self.root / "2_prepare" / "ct"
        options = PrepareOptions(**settings)
        inputs = {"series": str(self.folder / "series.tsv"), "images": str(self.folder / "volumes")}
        spec = Spec(
            stage="prepare",
            name="ct",
            study="test",
            root=str(self.root),
            seed=seed,
            code="0",
            options=options.model_dump(mode="json"),
            inputs=inputs | ({"split": options.split.file} if options.split.file else {}),
            out=str(out),
        )
        with job(spec, threads=threads) as work:
            run(work)
        return out


@pytest.fixture
def ingested(tmp_path: Path) -> Ingested:
    return Ingested(tmp_path)


@pytest.fixture
def ingested_twice(tmp_path: Path) -> Callable[[], Ingested]:
    """As many separate ingest folders as are asked for."""
    made: list[Ingested] = []

    def make() -> Ingested:
        made.append(Ingested(tmp_path / str(len(made))))
        return made[-1]

    return make
