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

from medssl.artefacts.wanted import WantedFits
from medssl.core import code, plugins, tables
from medssl.core.files import read_json, sha256_file
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
        ({"lr": 1e-6}, (4, 2)),
        ({"options": {"neighbours": 3}}, (4, 4)),
        ({"size": [12]}, (4, 4)),
        ({"threads_per_fit": 2}, (4, 4)),
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


def test_equal_weights_under_two_names_are_one_fit(
    image_source: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(shutil.copy(encoder / "encoder.safetensors", tmp_path / "weights.safetensors"))
    given = finetune_spec(image_source, weights={"one": file, "two": file}, scratch=False, **SETTINGS)
    calls: list[Any] = []
    monkeypatch.setattr(
        fitting.Work, "fit", lambda work, fit, report, once=fitting.Work.fit: calls.append(fit) or once(work, fit, report)
    )
    assert made(given) == (4, 4) and len(calls) == 2, "none was there before, and each stands for its twin"
    rows = tables.read_parquet(Path(given.out) / "predictions.parquet")
    one, two = (rows[rows["init"] == name].filter(like="prob_").to_numpy() for name in ("one", "two"))
    assert np.array_equal(one, two)
    assert {path.name for path in (Path(given.out) / "models").iterdir()} == {"one", "two"}
    assert made(given) == (4, 0)


def test_a_touched_or_regrouped_table_makes_nothing_again(image_source: Path, spec: Spec) -> None:
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


def test_where_patients_become_too_few_to_choose_a_step_the_fits_that_chose_are_made_again(
    image_source: Path, spec: Spec
) -> None:
    made(spec)
    samples = tables.read_parquet(image_source / "samples.parquet")
    chosen = samples["split"] == "val"
    samples["subject_id"] = samples["subject_id"].astype(object)
    samples.loc[chosen, "subject_id"] = [f"p-{n % 4}" for n in range(chosen.sum())]
    samples.loc[chosen, "unit"] = "patient"
    tables.write_parquet(image_source / "samples.parquet", samples)
    receipt(image_source, "prepare")
    assert made(spec) == (4, 2)
    fits = tables.read_tsv(Path(spec.out) / "fits.tsv")
    assert fits[fits["mode"] == "full"]["selection"].str.startswith("last step (4 of at least 10").all()


def relabel(source: Path, split: str, number: int = 0) -> str:
    """Give a case of a split the class of its neighbour; its id."""
    samples = tables.read_parquet(source / "samples.parquet")
    at = int(np.flatnonzero(samples["split"] == split)[number])
    samples.loc[at, "label"] = samples["label"][at + 1]
    tables.write_parquet(source / "samples.parquet", samples)
    receipt(source, "prepare")
    return str(samples["sample_id"][at])


def learns(spec: Spec) -> dict[float, set[tuple[str, str]]]:
    """By share, the cases that its fits train on with their labels."""
    splits = tables.read_parquet(Path(spec.out) / "splits.parquet")
    parts = splits[splits["split"] == "train"].groupby("fraction")
    return {share: set(zip(rows["case_id"], rows["label"], strict=True)) for share, rows in parts}


def test_a_changed_label_of_a_test_case_makes_no_fit_and_is_in_the_tables(image_source: Path, spec: Spec) -> None:
    made(spec)
    before = tables.read_parquet(Path(spec.out) / "predictions.parquet")
    case = relabel(image_source, "test")
    assert made(spec) == (4, 0)
    after = tables.read_parquet(Path(spec.out) / "predictions.parquet")
    changed = before["target"] != after["target"]
    assert set(after["case_id"][changed]) == {case}
    assert before.drop(columns="target").equals(after.drop(columns="target"))
    shutil.rmtree(Path(spec.root) / "state")
    assert made(spec) == (4, 4)
    assert tables.read_parquet(Path(spec.out) / "predictions.parquet").equals(after), "made again it is the same"


def test_a_changed_label_of_a_training_case_makes_the_fits_that_train_on_it_and_of_validation_all(
    image_source: Path, encoder: Path
) -> None:
    spec = finetune_spec(image_source, encoder, **SETTINGS | {"modes": ["linear"], "fractions": [0.1, 0.3, 1.0]})
    assert made(spec) == (6, 6)
    for number in range(3):
        before = learns(spec)
        relabel(image_source, "train", number)
        remade = made(spec)[1]
        after = learns(spec)
        assert remade == 2 * sum(before[share] != after[share] for share in before), number
        assert before[1.0] != after[1.0]
    relabel(image_source, "val")
    assert made(spec) == (6, 6)


def test_a_class_that_only_a_test_case_has_makes_all_again_as_it_is_an_output(image_source: Path, spec: Spec) -> None:
    made(spec)
    samples = tables.read_parquet(image_source / "samples.parquet")
    samples.loc[np.flatnonzero(samples["split"] == "test")[0], "label"] = "spleen"
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


def test_a_changed_mask_makes_the_fits_that_see_it_and_an_image_all(tmp_path: Path) -> None:
    """Of the eight scans, 0 to 3 train, 4 and 5 test, 6 and 7 choose; patient `p-0` or `p-1` is the half."""
    source = write_scans(tmp_path / "study")
    spec = finetune_spec(source, **SMALL | {"max_steps": 1})
    assert made(spec) == (2, 2)
    assert made(spec) == (2, 0)
    half = {case for case, _ in learns(spec)[0.5]}
    for case in ("v-00", "v-02"):
        change(source / "arrays" / f"{case}-mask.npy")
        assert made(spec) == (2, 2 if case in half else 1), case
    before = tables.read_parquet(Path(spec.out) / "predictions.parquet")
    ingest = tmp_path / "study" / "1_ingest" / "hearts"
    change(ingest / "volumes" / "v-04" / "mask.npy")
    change(source / "arrays" / "v-04-mask.npy")
    reference = Path(spec.out) / "masks" / "reference" / "v-04.nii.gz"
    given = reference.read_bytes()
    assert made(spec) == (2, 0), "a test mask is scored, and nothing learns from it"
    assert reference.read_bytes() != given and tables.read_parquet(Path(spec.out) / "predictions.parquet").equals(before)
    change(source / "arrays" / "v-06-mask.npy")
    assert made(spec) == (2, 2)
    change(source / "arrays" / "v-04.npy")
    assert made(spec) == (2, 2), "a test image is predicted"


def change(array: Path) -> None:
    """Another value in one voxel, and a receipt that says so."""
    values = np.load(array)
    values[0, 0, 0] = 1 - values[0, 0, 0]
    np.save(array, values)
    folder, stage = (array.parent.parent, "prepare") if array.parent.name == "arrays" else (array.parents[2], "ingest")
    receipt(folder, stage)


def test_masks_and_models_are_stored_once(tmp_path: Path) -> None:
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
    """So that the code of a fit is that of its task and backbone."""
    seen, waiting = set(), [Path(stage.__file__)]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += code.imported_files(path)
    folders = [code.PACKAGE / plugins.KINDS[kind] for kind in ("task", "backbone")]
    assert not [path for path in seen if path.parent in folders and path.name != "__init__.py"]


def test_a_kept_fit_that_was_damaged_is_made_again_and_said(spec: Spec, capsys: pytest.CaptureFixture[str]) -> None:
    made(spec)
    assert "damaged" not in capsys.readouterr().err
    damaged = next((Path(spec.root) / "state" / "finetune" / "fits").glob("*/predicted.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    assert made(spec) == (4, 1)
    assert "1 kept fits are damaged" in capsys.readouterr().err


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


# Two tasks that have a fit in common


def models(spec: Spec) -> dict[str, str]:
    """Hash of the model of each starting point of a finished task, as its receipt has it."""
    outputs = read_json(Path(spec.out) / "receipt.json")["outputs"]
    found = {name: sha256_file(Path(spec.out) / name) for name in outputs if name.endswith("model.safetensors")}
    assert found == {name: outputs[name]["sha256"] for name in found}
    return found


def another_task_drops_all_models(spec: Spec) -> None:
    """What `drop_model` of a task does that has better fits of the same starting points."""
    for path in (Path(spec.root) / "state" / "finetune" / "fits").glob("*/model.safetensors"):
        path.unlink()


@pytest.mark.parametrize("moment", ["finish", "take_model", "make"])
def test_a_model_that_another_task_lets_go_is_still_in_the_results(
    spec: Spec, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before the results are joined, before the model is looked for, and as soon as a fit is made."""
    made(spec)
    expected = models(spec)
    assert len(expected) == 2
    step = getattr(stage, moment)

    def in_the_bad_order(*arguments: Any, **more: Any) -> Any:
        if moment != "make":
            another_task_drops_all_models(spec)
        result = step(*arguments, **more)
        another_task_drops_all_models(spec)
        return result

    monkeypatch.setattr(stage, moment, in_the_bad_order)
    another_task_drops_all_models(spec)
    made(spec)
    assert models(spec) == expected


def test_a_fit_that_is_made_again_for_its_model_takes_no_file_from_another_reader(spec: Spec) -> None:
    made(spec)
    fits = Path(spec.root) / "state" / "finetune" / "fits"
    before = {path: path.stat().st_ino for path in fits.glob("*/predicted.npy")}
    another_task_drops_all_models(spec)
    assert made(spec)[1] == 2
    assert {path: path.stat().st_ino for path in fits.glob("*/predicted.npy")} == before
    assert len([*fits.glob("*/model.safetensors")]) == 2 and made(spec)[1] == 0


def test_a_task_says_which_fits_it_wants_before_it_makes_one(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "make", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finetune(spec)
    (said,) = WantedFits.said(spec.layout)
    monkeypatch.undo()
    made(spec)
    assert said.spec == spec.hash and said.fit_keys == read_json(Path(spec.out) / "receipt.json")["fit_keys"]
