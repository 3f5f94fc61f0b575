"""A segmentation task on the page: masks on the source grid lie on ingest's volume, in the place and colour they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from synthetic_study import FITS_ROW, SERIES_ROW, anatomy, job_of, spec

from medssl.artefacts.fits import FITS
from medssl.artefacts.predictions import PREDICTIONS
from medssl.artefacts.series import SERIES
from medssl.artefacts.volumes import VOLUMES
from medssl.core import job as jobs
from medssl.core import tables
from medssl.core.job import Spec
from medssl.evaluate.options import EvaluationOptions
from medssl.evaluate.run import run as evaluate
from medssl.report.class_colours import class_tones, rgb, rules
from medssl.report.evidence import Evidence
from medssl.report.pictures import OUTLINES, overlay
from medssl.report.run import run

NUM_CASES, DEPTH, SIZE = 6, 9, 48
INPUTS = {"predictions": "predictions.parquet", "fits": "fits.tsv", "masks": "masks"}


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
        common = {
            "volume_id": name, "series_id": "s" + name[1:], "subject_id": "p" + name[1:], "unit": "patient", "kind": "volume",
            "modality": "CT", "shape": list(image.shape), "spacing_mm": [1.0, 1.0, 4.0],
            "affine": np.diag([1.0, 1.0, 4.0, 1.0]).tolist(), "slope": 1.0, "intercept": 0.0,
        }  # fmt: skip
        series.append(SERIES_ROW | common | {"format": "nifti", "num_files": 1, "bytes": 9})
        window = {"window_low": [-1000.0], "window_high": [400.0]}
        volumes.append({**common, **window, "split": "test", "array": f"arrays/{name}.npy", "mask": None})
        names = {"target": f"masks/reference/{name}.nii.gz"}
        for arm in ("scratch-resnet18", "simclr-hash"):
            names[arm] = f"masks/{arm}/{name}.nii.gz"
        for what, shift in {"target": 0, "scratch-resnet18": 3 + case, "simclr-hash": case}.items():
            path = finetune.path(*names[what].split("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            lps = np.roll(target, shift, axis=0)[::-1, ::-1].astype(np.uint8)
            nibabel.save(nibabel.Nifti1Image(lps, np.diag([-1.0, -1.0, 4.0, 1.0])), path)
            masks.append(path)
        for arm in ("scratch-resnet18", "simclr-hash"):
            fit = {"fit_id": f"{arm}-full-1-s0", "init": arm, "mode": "full", "fraction": 1.0, "seed": 0, "split": "test"}
            of_case = {"case_id": name, "unit_id": "p" + name[1:], "unit": "patient", "target": names["target"]}
            rows.append({**fit, **of_case, "prediction": names[arm], "classes": {"0": "background", "1": "lung"}})
    SERIES.write_rows(ingest.path("series.tsv"), series)
    ingest.wrote(ingest.path("series.tsv"))
    ingest.write_receipt()
    VOLUMES.write_rows(prepare.path("volumes.tsv"), volumes)
    prepare.wrote(prepare.path("volumes.tsv"))
    prepare.write_receipt()
    PREDICTIONS.write(finetune.path("predictions.parquet"), pd.DataFrame(rows))
    fits = pd.DataFrame(rows).drop_duplicates("fit_id")[["fit_id", "init", "mode", "fraction", "seed"]]
    counts = dict.fromkeys(("num_train", "num_train_units", "num_units", "num_val", "num_test"), NUM_CASES)
    made = [FITS_ROW | counts | {"selection": "last step"} | row for row in fits.to_dict("records")]
    FITS.write(finetune.path("fits.tsv"), pd.DataFrame(made).astype({"pretrain_seed": "Int64"}))
    finetune.wrote(finetune.path("predictions.parquet"), finetune.path("fits.tsv"), *set(masks))
    finetune.write_receipt()
    options = EvaluationOptions(bootstrap=200, task="segmentation").model_dump(mode="json")
    inputs = {name: str(finetune.path(file)) for name, file in INPUTS.items()}
    out = str(root / "6_evaluate/lungs")
    with jobs.job(Spec("evaluate", "lungs", "demo", str(root), 0, "c0de", options, inputs, out)) as job:
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
    assert text.count('outlines of the true mask" src') == text.count('outlines of the predicted mask" src') == 6
    assert "no picture" not in text
    assert "simclr-hash, one seed, 100\u202f% of the labels. The plane" in text
    assert "Dice" in json.loads((folder / "7_report/study/report.json").read_text())["sections"]["answer"]["texts"][3]


RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_outlines_lie_on_the_edge_of_the_masks_in_the_colour_of_their_class() -> None:
    mask = np.zeros((60, 50), np.uint8)
    mask[10:20, 5:15], mask[40:50, 30:40] = 1, 7
    pixels = overlay(np.zeros((60, 50)), mask, {1: RED, 7: BLUE})
    grow = pixels.shape[1] // 60
    thick = round(max(pixels.shape) / OUTLINES)
    for value, colour in ((1, RED), (7, BLUE)):
        turned = np.kron((mask == value).T[::-1, ::-1], np.ones((grow, grow), np.uint8)).astype(bool)
        drawn = (pixels == colour).all(axis=2)
        assert not (drawn & ~turned).any()
        assert drawn.sum() == (10 * grow) ** 2 - (10 * grow - 2 * thick) ** 2


@pytest.mark.parametrize("shape", [(600, 10), (600, 5), (530, 4), (4, 530), (512, 30), (300, 300), (1, 1)])
def test_outlines_fit_the_picture_of_a_plane_of_any_shape(shape: tuple[int, int]) -> None:
    pixels = overlay(np.zeros(shape), np.ones(shape, np.uint8), {1: RED})
    red = (pixels == RED).all(axis=2)
    assert red[[0, -1]].all() and red[:, [0, -1]].all(), "the rim of a mask of the whole plane is the rim of the picture"


def test_a_class_has_one_colour_in_every_figure() -> None:
    """Labels, masks and scores of several tasks name classes: a name has a colour, whichever figure asks."""
    samples = pd.DataFrame({"label": ["2", "10", None, "1|2"]})
    cases = pd.DataFrame({"class": ["liver", "lung"]})
    overlays = pd.DataFrame({"classes": [{"1": "lung"}]})
    alone = class_tones(Evidence("t", samples={"a": samples}))
    assert alone == {"1": "k0", "2": "k1", "10": "k2"}
    both = class_tones(Evidence("t", samples={"a": samples}, cases={"b": cases}, overlays={"b": overlays}))
    assert both == alone | {"liver": "k3", "lung": "k4"}
    assert all(f".dot.{tone}" in rules() and f"#{rgb(tone)[0]:02x}" in rules() for tone in both.values())
