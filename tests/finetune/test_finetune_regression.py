"""Regression on spheres whose label is their radius: probes and fits, units, and labels that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from finetuning import finetune, finetune_spec, scratch_model, write_discs, write_encoder
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from medssl.artefacts.fits import FITS
from medssl.core import tables
from medssl.core.errors import StudyError
from medssl.finetune import probe
from medssl.finetune.cases import Cases
from medssl.finetune.folds import Divisions
from medssl.finetune.numbers import measured
from medssl.finetune.run import predict

COUNTS = {"train": 60, "val": 20, "test": 40}
REGRESSION = {"task": "regression", "fractions": [1.0]}


def rows_of(out: Path, part: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """True and predicted values of the first fit."""
    rows = tables.read_parquet(out / "predictions.parquet")
    rows = rows[(rows["split"] == part) & (rows["fit_id"] == rows["fit_id"].iloc[0])]
    return rows["target"].astype(float).to_numpy(), rows["value"].to_numpy()


@pytest.mark.full
def test_a_full_fit_finds_the_radius_of_a_sphere(tmp_path: Path) -> None:
    source = write_discs(tmp_path / "study", {"train": 120, "val": 20, "test": 40})
    out = finetune(finetune_spec(source, **REGRESSION, modes=["full"], max_steps=40, lr=2e-2, batch_size=32, augment=None))
    truth, values = rows_of(out)
    assert r2_score(truth, values) > 0.8
    fits = FITS.read(out / FITS.file)
    assert set(fits["selection"]) == {"validation negative mean absolute error"}
    by_hand = -np.abs(np.subtract(*rows_of(out, "val"))).mean()
    assert fits["val_score"].iloc[0] == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("mode", [pytest.param("linear", marks=pytest.mark.full), "full"])
def test_values_are_in_the_unit_of_the_labels(mode: str, tmp_path: Path) -> None:
    """A label in another unit, 0 elsewhere: the same prediction in that unit."""
    found = []
    for name, change in {"one": lambda radius: radius, "other": lambda radius: 1000 - 40 * radius}.items():
        source = write_discs(tmp_path / name, COUNTS, said=change)
        _, values = rows_of(finetune(finetune_spec(source, **REGRESSION, modes=[mode], max_steps=3)))
        found.append((values, change))
    (plain, _), (other, change) = found
    assert np.ptp(plain) > 0.05
    if mode == "linear":
        assert other == pytest.approx(change(plain), rel=1e-4)
    else:  # the head starts from the same weights, so that the sign of its output is that of the labels
        assert 700 < other.mean() < 950 and np.ptp(other) > 0.5


def test_the_ridge_is_scikit_learns_on_standardised_features_and_validation_chooses_its_penalty() -> None:
    generator = np.random.default_rng(3)
    features = generator.normal(5, [1, 10, 0.1, 1], (80, 4)).astype(np.float32)
    values = 50 + 3 * features[:, 0] - 20 * features[:, 2] + generator.normal(0, 2, 80)
    train, val = (features[:50], values[:50]), (features[50:], values[50:])
    scaler, (mean, deviation) = StandardScaler().fit(train[0]), (train[1].mean(), train[1].std())
    errors = {}
    for inverse in probe.INVERSE_RIDGES:
        model = Ridge(alpha=1 / inverse).fit(scaler.transform(train[0]), (train[1] - mean) / deviation)
        said = model.predict(scaler.transform(val[0])) * deviation + mean
        errors[inverse] = np.abs(said - val[1]).mean()
        line = probe.ridge_probe(train, val, inverse_penalties=(inverse,))
        assert line(val[0]) == pytest.approx(said, abs=1e-4) and line.score == pytest.approx(-errors[inverse], abs=1e-5)
    assert probe.ridge_probe(train, val).inverse_penalty == min(errors, key=errors.__getitem__)
    assert probe.ridge_probe(train, (val[0][:0], val[1][:0])).inverse_penalty == 1e-2


def test_features_without_information_and_equal_values_give_the_mean() -> None:
    features = np.ones((10, 3), np.float32)
    line = probe.ridge_probe((features, np.arange(10.0)), (features, np.arange(10.0)))
    assert line(features) == pytest.approx(np.full(10, 4.5))
    line = probe.ridge_probe((np.eye(10, dtype=np.float32), np.full(10, 7.0)), (features[:, :1].repeat(10, 1), np.full(10, 7.0)))
    assert line(np.eye(10, dtype=np.float32)) == pytest.approx(np.full(10, 7.0))


def test_a_value_of_a_patient_is_the_mean_over_its_images(tmp_path: Path) -> None:
    source = write_discs(tmp_path / "study", COUNTS, per_unit=4)
    outs = {}
    for aggregate in ("case", "unit"):
        spec = finetune_spec(source, **REGRESSION, modes=["linear"], options={"aggregate": aggregate, "measured_in": "mm"})
        outs[aggregate] = tables.read_parquet(finetune(spec) / "predictions.parquet")
    means = outs["case"].groupby("unit_id")["value"].mean()
    assert len(outs["unit"]) == (COUNTS["val"] + COUNTS["test"]) / 4
    assert outs["unit"].set_index("case_id")["value"].to_dict() == pytest.approx(means.to_dict())


@pytest.mark.full
def test_a_model_says_the_values_of_new_images(tmp_path: Path) -> None:
    source = write_discs(tmp_path / "study", COUNTS)
    out = finetune(finetune_spec(source, **REGRESSION, modes=["linear"]))
    written = predict(scratch_model(out), source / "samples.parquet", source / "volumes.tsv", tmp_path / "new")
    table = tables.read_tsv(written[-1])
    assert written[-1].name == "values.tsv" and list(table) == ["case_id", "unit_id", "unit", "value"]
    assert len(table) == sum(COUNTS.values())


def samples(*labels: str | None, split: str = "train test") -> pd.DataFrame:
    parts = [part for part in split.split() for _ in range(len(labels) // len(split.split()))]
    ids = [f"v-{n}" for n in range(len(labels))]
    return pd.DataFrame({"sample_id": ids, "volume_id": ids, "label": labels, "split": parts})


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("61", "n.a.", "63", "64"), "'n.a.' is not a finite number (1 of 4 labelled cases, the first v-1)"),
        (("61", "62,5", "63", "64"), "'62,5' is not a number; write the decimal sign as a point"),
        (("61", "nan", "63", "64"), "'nan' is not a finite number"),
        (("61", "inf", "63", "64"), "'inf' is not a finite number"),
        (("61", "62|63", "63", "64"), "'62|63' is several labels; expected one number"),
        (("61", "1_000", "63", "64"), "'1_000' is not a finite number"),
        (("61", "61.0", "63", "64"), "all 2 labels to train on are 61, so there is nothing to learn"),
        ((None, None, "63", "64"), "no labelled case is in the train split"),
        ((None,) * 4, "has no labels"),
    ],
)
def test_labels_that_are_not_numbers_are_refused(labels: Any, words: str) -> None:
    with pytest.raises(StudyError) as caught:
        measured(samples(*labels), "ct", whole_volumes=False)
    assert words in str(caught.value)


def test_numbers_are_read_however_they_are_written() -> None:
    rows, values = measured(samples("61", " 6.25e1", "-3", "0.0"), "ct", whole_volumes=False)
    assert values.ravel().tolist() == [61, 62.5, -3, 0] and rows["label"].tolist() == ["61", "62.5", "-3", "0"]


def test_a_network_of_volumes_has_a_number_per_volume() -> None:
    slices = pd.DataFrame(
        {
            "sample_id": [f"v-{volume}-{k}" for volume in range(4) for k in range(3)],
            "volume_id": [f"v-{volume}" for volume in range(4) for _ in range(3)],
            "label": [str(60 + volume) for volume in range(4) for _ in range(3)],
            "split": [part for part in ("train", "train", "test", "test") for _ in range(3)],
        }
    )
    rows, values = measured(slices, "ct", whole_volumes=True)
    assert rows["case_id"].tolist() == ["v-0", "v-1", "v-2", "v-3"] and values.ravel().tolist() == [60, 61, 62, 63]
    slices.loc[1, "label"] = "99"
    with pytest.raises(StudyError, match="1 volumes hold slices of different labels"):
        measured(slices, "ct", whole_volumes=True)


@pytest.mark.full
def test_subsets_and_folds_of_numbers_are_drawn_without_regard_to_them(tmp_path: Path) -> None:
    source = write_discs(tmp_path / "study", COUNTS)
    encoder = write_encoder(tmp_path / "study" / "4_pretrain" / "ct" / "one-all-seed0")
    spec = finetune_spec(source, encoder, **REGRESSION | {"fractions": [0.05, 0.5]}, modes=["knn"], scratch=False)
    fits = FITS.read(finetune(spec) / FITS.file)
    assert sorted(fits["num_train"]) == [3, 30]


def cases_of(values: np.ndarray) -> Cases:
    """Cases in three folds whose labels are numbers."""
    names = np.array([f"v-{n:02d}" for n in range(len(values))], dtype=object)
    labels = np.array([f"{value:g}" for value in values], dtype=object)
    kinds = np.array(["image"] * len(values), dtype=object), np.array([None] * len(values), dtype=object)
    nothing = np.zeros((len(values), 0), np.uint8)
    return Cases(
        *(names, names, names, *kinds, labels, [], nothing, names, labels),
        fold=np.arange(len(values)) % 3,
        numbers=values[:, None],
    )


def test_parts_of_a_fold_do_not_depend_on_values() -> None:
    """Each value would be a class of its own, and the smallest texts would validate."""
    splits = []
    for values in (np.arange(30.0), np.arange(30.0)[::-1]):
        found = Divisions.of(cases_of(values), seeds=[0], fractions=[1.0], counts=[], val_frac=0.2, seed=0)
        splits.append([division.cases.split.tolist() for division in found.by_fold.values()])
    assert splits[0] == splits[1] and splits[0][0].count("val") == 4


def test_labels_of_the_test_part_do_not_move_a_fit(tmp_path: Path) -> None:
    """Neither their scale nor their mean."""
    found = []
    for name, factor in {"one": 1.0, "other": 100.0}.items():
        source = write_discs(tmp_path / name, COUNTS, said=lambda radii, factor=factor: np.r_[radii[:80], factor * radii[80:]])
        found.append(rows_of(finetune(finetune_spec(source, **REGRESSION, modes=["full"], max_steps=2)))[1])
    assert np.array_equal(*found)


def test_a_patient_with_two_values_is_refused_before_a_fit() -> None:
    cases = cases_of(np.arange(6.0))
    assert cases.require_one_label("unit") is None
    torn = replace(cases, unit_id=np.array(["a", "a", "b", "b", "c", "d"], dtype=object))
    with pytest.raises(StudyError, match=r"^2 of 4 units hold cases of different labels.*aggregate to case\.$"):
        torn.require_one_label("unit")
    torn.require_one_label("case")
