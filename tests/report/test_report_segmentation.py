"""A segmentation task on the page: masks on the source grid lie on ingest's volume, in the place and colour they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from synthetic_study import anatomy, job_of, spec

from medssl.core import job as jobs
from medssl.core import tables
from medssl.core.job import Spec
from medssl.evaluate.run import run as evaluate
from medssl.report.pictures import PREDICTED_COLOUR, TRUE_COLOUR, overlay
from medssl.report.run import run

NUM_CASES, DEPTH, SIZE = 6, 9, 48


def written(root: Path) -> dict[str, Any]:
    """A source of volumes with masks, its predictions by two arms on the (LPS) source grid, and their evaluation."""
    ingest, prepare = job_of(root, "ingest", "ct", "1_ingest/ct"), job_of(root, "prepare", "ct", "2_prepare/ct")
    finetune = job_of(root, "finetune", "lungs", "5_finetune/lungs")
    series, volumes, rows, masks = [], [], [], []
    for case in range(NUM_CASES):
        name = f"v-{case:012x}"
        image = np.stack([anatomy(k, SIZE, 0.2 * case) for k in range(DEPTH)], axis=-1)
        target = (image < -500) & (np.abs(np.linspace(-1, 1, SIZE))[:, None, None] < 0.85)
        target &= (np.linspace(-1, 1, SIZE)[None, :, None] ** 2) < 0.4
        folder = ingest.path("volumes", name)
        folder.mkdir(parents=True)
        np.save(folder / "image.npy", np.asfortranarray(image.astype(np.int16)))
        common = {"volume_id": name, "subject_id": "p" + name[1:], "unit": "patient", "kind": "volume", "modality": "CT"}
        series.append({**common, "format": "nifti", "num_files": 1, "slope": 1.0, "intercept": 0.0})
        volumes.append({**common, "slope": 1.0, "intercept": 0.0, "window_low": [-1000.0], "window_high": [400.0]})
        names = {"target": f"masks/reference/{name}.nii.gz"}
        for arm in ("scratch", "simclr-hash"):
            names[arm] = f"masks/{arm}/{name}.nii.gz"
        for what, shift in {"target": 0, "scratch": 3 + case, "simclr-hash": case}.items():
            path = finetune.path(*names[what].split("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            lps = np.roll(target, shift, axis=0)[::-1, ::-1].astype(np.uint8)
            nibabel.save(nibabel.Nifti1Image(lps, np.diag([-1.0, -1.0, 4.0, 1.0])), path)
            masks.append(path)
        for arm in ("scratch", "simclr-hash"):
            fit = {"fit_id": f"{arm}-full-1-s0", "init": arm, "mode": "full", "fraction": 1.0, "seed": 0, "split": "test"}
            of_case = {"case_id": name, "unit_id": "p" + name[1:], "unit": "patient", "target": names["target"]}
            rows.append({**fit, **of_case, "prediction": names[arm], "classes": json.dumps({"0": "background", "1": "lung"})})
    tables.write_tsv(ingest.path("series.tsv"), pd.DataFrame(series))
    ingest.wrote(ingest.path("series.tsv"))
    ingest.write_receipt()
    tables.write_tsv(prepare.path("volumes.tsv"), pd.DataFrame(volumes))
    prepare.wrote(prepare.path("volumes.tsv"))
    prepare.write_receipt()
    tables.write_parquet(finetune.path("predictions.parquet"), pd.DataFrame(rows))
    finetune.wrote(finetune.path("predictions.parquet"), *set(masks))
    finetune.write_receipt()
    settings = {"bootstrap": 200, "confidence": 0.95, "task": "segmentation", "name": "lungs", "metrics": None}
    inputs = {"predictions": str(finetune.path("predictions.parquet"))}
    with jobs.job(
        Spec("evaluate", "lungs", "demo", str(root), 0, "c0de", settings, inputs, str(root / "6_evaluate/lungs"))
    ) as job:
        evaluate(job)
    result = {"scores": "scores.tsv", "comparisons": "comparisons.tsv", "cases": "cases.parquet"}
    found = {name: [str(root / "6_evaluate/lungs" / file)] for name, file in result.items()}
    return {"series": [str(ingest.path("series.tsv"))], "volumes": [str(prepare.path("volumes.tsv"))], **found}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("segmentation") / "demo"
    with jobs.job(spec(root, written(root))) as job:
        run(job)
    return root


def test_planes_are_those_of_the_ras_volume(folder: Path) -> None:
    rows = tables.read_parquet(folder / "6_evaluate/lungs/overlays.parquet")
    assert rows["group"].tolist() == ["best"] * 2 + ["median"] * 2 + ["worst"] * 2
    assert rows["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert (rows["axis"] == 2).all()
    for row in rows.to_dict("records"):
        image = np.load(folder / "1_ingest/ct/volumes" / row["case_id"] / "image.npy")[:, :, row["index"]]
        target = np.frombuffer(row["target"], np.uint8).reshape(row["rows"], row["columns"])
        assert (image[target == 1] < -500).all()


def test_the_page_shows_every_pictured_case(folder: Path) -> None:
    text = (folder / "7_report/study/report.html").read_text()
    assert text.count("outlines of the true and the predicted mask") == 6
    assert "no picture" not in text
    assert "simclr-hash, one seed, 100\u202f% of the labels. The plane" in text
    assert "Dice" in json.loads((folder / "7_report/study/report.json").read_text())["sections"]["answer"]["texts"][2]


def test_outlines_lie_on_the_edge_of_the_masks() -> None:
    target, prediction = np.zeros((60, 50), np.uint8), np.zeros((60, 50), np.uint8)
    target[10:20, 5:15] = 1
    prediction[40:50, 30:40] = 1
    pixels = overlay(np.zeros((60, 50)), 0, 1, prediction, target)
    grow = pixels.shape[1] // 60
    turned = np.kron(target.T[::-1, ::-1], np.ones((grow, grow), np.uint8)).astype(bool)
    teal = (pixels == TRUE_COLOUR).all(axis=2)
    assert teal.any()
    assert not (teal & ~turned).any()
    assert teal.sum() == 4 * (10 * grow - 1)
    assert (pixels == PREDICTED_COLOUR).all(axis=2).sum() == teal.sum()


@pytest.mark.parametrize("shape", [(600, 10), (600, 5), (530, 4), (4, 530), (512, 30), (300, 300), (1, 1)])
def test_outlines_fit_the_picture_of_a_plane_of_any_shape(shape: tuple[int, int]) -> None:
    whole = np.ones(shape, np.uint8)
    pixels = overlay(np.zeros(shape), 0, 1, whole, whole)
    orange = (pixels == PREDICTED_COLOUR).all(axis=2)
    assert orange[[0, -1]].all() and orange[:, [0, -1]].all(), "the rim of a mask of the whole plane is the rim of the picture"
