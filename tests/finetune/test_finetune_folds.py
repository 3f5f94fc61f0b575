"""Cross-validation: each case is tested once, by networks that have not seen it, and a fold is a fit like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from finetuning import SMALL, finetune, finetune_spec, write_image_source, write_scans
from prepared import receipt

from medssl.core import tables
from medssl.core.errors import StudyError
from medssl.core.files import read_json
from medssl.finetune.run import predict

FOLDS = 3
SETTINGS: dict[str, Any] = {"modes": ["linear", "full"], "fractions": [0.5, 1.0], "max_steps": 2, "val_frac": 0.25, "size": [16]}


def cut_into_folds(source: Path, num_folds: int = FOLDS) -> Path:
    """A source as prepare leaves it with `folds`: all of it is tested, each unit in one fold."""
    samples = tables.read_parquet(source / "samples.parquet")
    units = samples["subject_id"].where(samples["subject_id"].notna(), samples["sample_id"])
    number = {unit: n % num_folds for n, unit in enumerate(sorted(set(units)))}
    samples = samples.assign(split="test", fold=units.map(number).astype(np.int8))
    tables.write_parquet(source / "samples.parquet", samples)
    receipt(source, "prepare")
    return source


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """63 images of 21 patients in three folds."""
    return cut_into_folds(write_image_source(tmp_path / "study" / "2_prepare" / "organs", {"train": 63}, per_unit=3))


def test_each_case_is_tested_once_by_a_fit_that_has_not_seen_its_patient(images: Path) -> None:
    out = finetune(finetune_spec(images, **SETTINGS))
    rows, splits = (tables.read_parquet(out / name) for name in ("predictions.parquet", "splits.parquet"))
    samples = tables.read_parquet(images / "samples.parquet").set_index("sample_id")
    assert rows["fit_id"].nunique() == 2 * 2 and set(rows["split"]) == {"test"}
    for _, of_fit in rows.groupby("fit_id"):
        assert sorted(of_fit["case_id"]) == sorted(samples.index)
        assert (of_fit["fold"].to_numpy() == samples.loc[of_fit["case_id"], "fold"].to_numpy()).all()
    for _, of_fold in splits.groupby("fold"):
        whole = of_fold[(of_fold["fraction"] == 1.0) | of_fold["fraction"].isna()]
        units = {part: set(rows["unit_id"]) for part, rows in whole.groupby("split")}
        assert not units["train"] & units["val"] and not (units["train"] | units["val"]) & units["test"]
        assert sum(map(len, units.values())) == 21 and len(whole) == 63
        assert len(units["val"]) == round(0.25 * (21 - len(units["test"])))


def test_a_fit_has_a_row_for_each_fold_and_one_name(images: Path) -> None:
    out = finetune(finetune_spec(images, **SETTINGS))
    fits, curves = tables.read_tsv(out / "fits.tsv"), tables.read_tsv(out / "curves.tsv")
    assert fits.groupby("fit_id")["fold"].agg(list).map(lambda folds: folds == [0, 1, 2]).all()
    assert not fits["fit_id"].str.contains(r"-f\d$").any()
    assert {tuple(row) for row in curves[["fit_id", "fold"]].to_numpy()} == {
        tuple(row) for row in fits[fits["mode"] == "full"][["fit_id", "fold"]].to_numpy()
    }
    (model,) = (out / "models").iterdir()
    best = read_json(model / "contract.json")["fit"]
    most = fits[fits["fraction"] == 1.0]
    assert best["val_score"] == most["val_score"].max()
    chosen = most[(most["fit_id"] == best["fit_id"]) & (most["fold"] == best["fold"])]
    assert chosen["val_score"].item() == best["val_score"]


def test_a_fold_is_the_fit_of_a_source_that_was_split_so(tmp_path: Path, images: Path) -> None:
    """The parts of a fold, written as a plain split, give the same probabilities of the same cases."""
    out = finetune(finetune_spec(images, **SETTINGS))
    pooled, splits = (tables.read_parquet(out / name) for name in ("predictions.parquet", "splits.parquet"))
    fold = 1
    plain = shutil.copytree(images, tmp_path / "plain" / "2_prepare" / "organs")
    parts = splits[splits["fold"] == fold].drop_duplicates("case_id", keep="last").set_index("case_id")["split"]
    samples = tables.read_parquet(plain / "samples.parquet").drop(columns="fold")
    tables.write_parquet(plain / "samples.parquet", samples.assign(split=samples["sample_id"].map(parts)))
    receipt(plain, "prepare")
    alone = tables.read_parquet(finetune(finetune_spec(plain, **SETTINGS)) / "predictions.parquet")
    order = ["fit_id", "case_id"]
    one = pooled[pooled["fold"] == fold].drop(columns="fold").sort_values(order, ignore_index=True)
    other = alone[alone["split"] == "test"].sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_masks_of_all_folds_lie_together(tmp_path: Path) -> None:
    source = cut_into_folds(write_scans(tmp_path / "study"), 2)
    out = finetune(finetune_spec(source, **SMALL | {"fractions": [1.0], "max_steps": 2, "val_frac": 0.0}))
    rows = tables.read_parquet(out / "predictions.parquet")
    assert sorted(rows["case_id"]) == [f"v-{n:02d}" for n in range(8)]
    assert all((out / name).is_file() for column in ("prediction", "target") for name in rows[column])
    (model,) = (out / "models").iterdir()
    fit = json.loads((model / "contract.json").read_text())["fit"]
    assert fit["fold"] in (0, 1)
    ingested = tmp_path / "study" / "1_ingest" / "hearts" / "volumes"
    predict(model, source / "samples.parquet", source / "volumes.tsv", tmp_path / "new", ingested=ingested)
    for row in rows[rows["fold"] == fit["fold"]].to_dict("records"):
        assert (tmp_path / "new" / "masks" / f"{row['case_id']}.nii.gz").read_bytes() == (out / row["prediction"]).read_bytes()


def test_a_seed_more_makes_its_folds_alone_and_other_shares_of_validation_all(images: Path) -> None:
    def made(**changed: Any) -> int:
        receipt = read_json(finetune(finetune_spec(images, **SETTINGS | changed)) / "receipt.json")
        return int(receipt["fits"] - receipt["restored_fits"])

    assert made() == 2 * 2 * FOLDS
    assert made(seeds=[0, 1]) == 2 * 2 * FOLDS
    assert made() == 0
    assert made(val_frac=0.5) == 2 * 2 * FOLDS


def test_a_changed_label_makes_the_folds_that_learn_from_the_case_and_not_the_one_that_tests_it(images: Path) -> None:
    spec = finetune_spec(images, **SETTINGS | {"modes": ["linear"], "fractions": [1.0]})
    kept = images.parent.parent / "state" / "finetune" / "fits"
    finetune(spec)
    before = {path.name for path in kept.iterdir()}
    samples = tables.read_parquet(images / "samples.parquet")
    samples.loc[0, "label"] = samples["label"][1]
    tables.write_parquet(images / "samples.parquet", samples)
    receipt(images, "prepare")
    finetune(spec)
    assert len({path.name for path in kept.iterdir()} - before) == FOLDS - 1


def test_a_fold_that_leaves_nothing_to_train_on_is_refused(images: Path) -> None:
    with pytest.raises(StudyError, match="nothing is left to train on"):
        finetune(finetune_spec(images, **SETTINGS | {"val_frac": 0.99}))


def test_each_case_is_scored_once(tmp_path: Path, images: Path) -> None:
    """Evaluation sees as many cases as there are, and the accuracy that counting by hand gives."""
    from medssl.core.job import Spec, job
    from medssl.evaluate.options import EvaluationOptions
    from medssl.evaluate.run import run

    out = finetune(finetune_spec(images, **SETTINGS))
    options = EvaluationOptions(bootstrap=100, task="classification", metrics=["accuracy"]).model_dump(mode="json")
    inputs = {"predictions": str(out / "predictions.parquet"), "fits": str(out / "fits.tsv"), "masks": str(out / "masks")}
    root = tmp_path / "study"
    spec = Spec("evaluate", "organs", "study", str(root), 0, "c", options, inputs, str(root / "6_evaluate" / "organs"))
    with job(spec) as work:
        run(work)
    scores = tables.read_tsv(root / "6_evaluate" / "organs" / "scores.tsv")
    rows = tables.read_parquet(out / "predictions.parquet")
    names = [name for name in rows if name.startswith("prob_")]
    right = rows[names].to_numpy().argmax(axis=1) == rows["target"].map([n[5:] for n in names].index)
    by_hand = right.groupby([rows["mode"], rows["fraction"]]).mean()
    assert set(scores["n"]) == {21} and set(scores["unit"]) == {"patient"}
    assert len(scores) == len(by_hand) == 4
    for row in scores.to_dict("records"):
        assert row["estimate"] == pytest.approx(by_hand[row["mode"], row["fraction"]])
