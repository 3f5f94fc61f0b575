"""A fit is made once: what it depends on makes it again, and nothing else does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetuning import SMALL, finetune, finetune_spec, scratch_model, write_encoder, write_scans
from prepared import receipt

from medssl.core import code, plugins, tables
from medssl.core.files import read_json
from medssl.core.job import Spec
from medssl.finetune import fitting
from medssl.finetune import run as stage

SETTINGS: dict[str, Any] = {"modes": ["linear", "full"], "max_steps": 2, "fractions": [1.0]}
"""Scratch and one encoder: four fits."""


def made(spec: Spec) -> tuple[int, int]:
    """How many fits a job has, and how many of them it made."""
    shutil.rmtree(spec.out, ignore_errors=True)
    found = read_json(finetune(spec) / "receipt.json")
    return found["fits"], found["fits"] - found["restored_fits"]


@pytest.fixture
def spec(image_source: Path, encoder: Path) -> Spec:
    return finetune_spec(image_source, encoder, **SETTINGS)


def with_options(spec: Spec, **changed: Any) -> Spec:
    return replace(spec, options=spec.options | changed)


def test_the_same_job_makes_nothing_again_and_gives_the_same_bytes(tmp_path: Path, spec: Spec) -> None:
    assert made(spec) == (4, 4)
    before = shutil.copytree(spec.out, tmp_path / "before")
    assert made(spec) == (4, 0)
    files = [p.relative_to(before) for p in before.rglob("*") if p.is_file() and p.name != "receipt.json"]
    assert len(files) > 6
    for name in files:
        assert (Path(spec.out) / name).read_bytes() == (before / name).read_bytes(), name


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"seeds": [0, 1]}, (8, 4)),
        ({"fractions": [0.5, 1.0]}, (8, 4)),
        ({"modes": ["linear", "knn", "full"]}, (6, 2)),
        ({"modes": ["linear"]}, (2, 0)),
        ({"scratch": False}, (2, 0)),
        ({"lr": 0.02}, (4, 2)),
        ({"options": {"neighbours": 3}}, (4, 4)),
        ({"size": [12]}, (4, 4)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_only_what_a_change_concerns_is_made(spec: Spec, changed: dict[str, Any], expected: tuple[int, int]) -> None:
    made(spec)
    assert made(with_options(spec, **changed)) == expected
    assert made(spec)[1] == 0, "what was there before is still there"


def test_an_added_encoder_makes_its_own_fits_alone(tmp_path: Path, image_source: Path, encoder: Path, spec: Spec) -> None:
    made(spec)
    other = write_encoder(tmp_path / "study" / "4_pretrain" / "ct" / "moco-hash-seed0", seed=8)
    assert made(finetune_spec(image_source, encoder, other, **SETTINGS)) == (6, 2)
    shutil.rmtree(other)
    write_encoder(other, seed=9)
    assert made(finetune_spec(image_source, encoder, other, **SETTINGS)) == (6, 2), "other weights under a name that was there"


def test_equal_weights_under_two_names_are_one_fit(image_source: Path, encoder: Path, tmp_path: Path) -> None:
    file = str(shutil.copy(encoder / "encoder.safetensors", tmp_path / "weights.safetensors"))
    given = finetune_spec(image_source, weights={"one": file, "two": file}, scratch=False, **SETTINGS)
    assert made(given) == (4, 2)
    rows = tables.read_parquet(Path(given.out) / "predictions.parquet")
    one, two = (rows[rows["init"] == name].filter(like="prob_").to_numpy() for name in ("one", "two"))
    assert np.array_equal(one, two)
    assert {path.name for path in (Path(given.out) / "models").iterdir()} == {"one", "two"}


def test_a_changed_label_makes_all_again_and_a_touched_or_regrouped_table_nothing(image_source: Path, spec: Spec) -> None:
    made(spec)
    samples = tables.read_parquet(image_source / "samples.parquet")
    (image_source / "samples.parquet").touch()
    assert made(spec) == (4, 0)
    labels = image_source.parent.parent / "1_ingest" / "organs" / "labels"
    labels.mkdir(parents=True)
    given = samples[["volume_id", "index"]].assign(label=None, mask=None, group_site="a").astype({"index": "Int32"})
    tables.write_parquet(labels / "labels.parquet", given)
    (labels / "labels.json").write_text('{"items": 1, "labelled": 1, "strangers": 0, "names": {}}')
    receipt(labels, "ingest")
    grouped = replace(spec, inputs=spec.inputs | {"labels": str(labels / "labels.parquet")})
    assert made(grouped) == (4, 0)
    assert set(tables.read_parquet(Path(spec.out) / "predictions.parquet")["group_site"]) == {"a"}
    samples.loc[0, "label"] = samples["label"][1]
    tables.write_parquet(image_source / "samples.parquet", samples)
    receipt(image_source, "prepare")
    assert made(spec) == (4, 4)


def test_one_changed_pixel_makes_all_again(image_source: Path, spec: Spec) -> None:
    made(spec)
    array = np.load(image_source / "arrays" / "v-00.npy")
    array[0, 0, 0] += 1
    np.save(image_source / "arrays" / "v-00.npy", array)
    receipt(image_source, "prepare")
    assert made(spec) == (4, 4)


def test_a_changed_mask_makes_all_again(tmp_path: Path) -> None:
    source = write_scans(tmp_path / "study")
    spec = finetune_spec(source, **SMALL | {"max_steps": 1})
    assert made(spec) == (2, 2)
    assert made(spec) == (2, 0)
    mask = np.load(source / "arrays" / "v-00-mask.npy")
    mask[0, 0, 0] = 1 - mask[0, 0, 0]
    np.save(source / "arrays" / "v-00-mask.npy", mask)
    receipt(source, "prepare")
    assert made(spec) == (2, 2)


def test_masks_and_models_are_no_second_copy(tmp_path: Path) -> None:
    out = finetune(finetune_spec(write_scans(tmp_path / "study"), **SMALL | {"max_steps": 1}))
    files = [*out.glob("masks/scratch-*/*"), *out.glob("models/*/model.safetensors")]
    assert len(files) == 2 * 2 + 1
    assert all(path.stat().st_nlink > 1 for path in files)


def test_other_code_makes_all_again_and_code_of_another_start_nothing(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    made(spec)
    hashed = fitting.code_hash
    monkeypatch.setattr(fitting, "code_hash", lambda *files: hashed(*files) + "x" * any(Path(f).stem == "unet" for f in files))
    assert made(spec) == (4, 0)
    monkeypatch.setattr(
        fitting, "code_hash", lambda *files: hashed(*files) + "x" * any(Path(f).stem == "resnet18" for f in files)
    )
    assert made(spec) == (4, 4)


def test_the_stage_itself_reaches_no_task_and_no_backbone() -> None:
    """So that the code of a fit is that of its own task and backbone."""
    seen, waiting = set(), [Path(stage.__file__)]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += code.imported_files(path)
    folders = [code.PACKAGE / plugins.KINDS[kind] for kind in ("task", "backbone")]
    assert not [path for path in seen if path.parent in folders and path.name != "__init__.py"]


def test_a_kept_fit_that_was_damaged_is_made_again(spec: Spec) -> None:
    made(spec)
    damaged = next((Path(spec.root) / "state" / "finetune" / "fits").glob("*/predicted.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    assert made(spec) == (4, 1)


def test_a_model_whose_weights_were_dropped_as_worse_is_fitted_again_once_it_is_the_best(
    tmp_path: Path, image_source: Path, encoder: Path
) -> None:
    several = finetune_spec(image_source, encoder, **SETTINGS | {"modes": ["full"], "seeds": [0, 1, 2], "scratch": False})
    made(several)
    fits = tables.read_tsv(Path(several.out) / "fits.tsv")
    best = int(fits.loc[fits["val_score"].idxmax(), "seed"])
    fewer = with_options(several, seeds=[seed for seed in (0, 1, 2) if seed != best])
    assert made(fewer) == (2, 1)
    model = Path("models/simclr-hash-seed0/model.safetensors")
    kept = (Path(fewer.out) / model).read_bytes()
    shutil.rmtree(tmp_path / "study" / "state")
    assert made(fewer) == (2, 2)
    assert (Path(fewer.out) / model).read_bytes() == kept
    assert len([*(tmp_path / "study" / "state").rglob("model.safetensors")]) == 1 + 1, "one of the fits, one of the job"


def test_masks_and_models_of_starts_that_a_task_no_longer_has_go(spec: Spec) -> None:
    out = finetune(spec)
    assert (out / "models" / "simclr-hash-seed0").is_dir()
    finetune(replace(spec, inputs=spec.inputs | {"encoders": {}, "parts": {}, "contracts": {}}))
    assert [path.name for path in (out / "models").iterdir()] == [scratch_model(out).name]


def test_scratch_bears_its_backbone_whatever_else_a_task_starts_from(image_source: Path, encoder: Path, spec: Spec) -> None:
    name = scratch_model(finetune(spec)).name
    assert name.startswith("scratch-resnet18-")
    alone = finetune_spec(image_source, **SETTINGS | {"size": [16]})
    assert scratch_model(finetune(alone)).name == name
    plain = finetune_spec(image_source, **SETTINGS | {"size": [16], "backbone": "resnet18", "modes": ["linear"]})
    assert {p.name for p in (finetune(plain) / "models").iterdir()} == {"scratch-resnet18"}
