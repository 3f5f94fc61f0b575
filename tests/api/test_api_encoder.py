"""`medssl.load`: an encoder whose features are those of `medssl embed`, of whatever kind of image it is given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from made_encoders import make_run
from phantoms import datasets, random_phantom, save
from prepared import phantom, write_prepared
from typer.testing import CliRunner

import medssl
from medssl.cli import app
from medssl.core import tables
from medssl.core.errors import MedsslError, StudyError
from medssl.nn.transfer import embed, export


def ct_run(folder: Path, name: str = "resnet18", dims: int = 2, **options: Any) -> Path:
    """The run of an encoder that learnt from CT in a window of soft tissue."""
    make_run(folder, name, dims, **options)
    contract = json.loads((folder / "contract.json").read_text())
    contract |= {"modalities": ["CT"], "window": {"low": [-160.0], "high": [240.0], "differs_by_volume": False, "rules": ["hu"]}}
    (folder / "contract.json").write_text(json.dumps(contract))
    return folder


def nifti(seed: int = 3, shape: tuple[int, int, int] = (32, 36, 5)) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(phantom(seed, shape), np.diag([1, 1, 2.5, 1]))


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Two NIfTI files, one of which a folder holds, and a DICOM series."""
    folder = tmp_path / "new"
    (folder / "b").mkdir(parents=True)
    nibabel.save(nifti(3), folder / "a.nii.gz")
    nibabel.save(nifti(4), folder / "b" / "scan.nii")
    save(datasets(random_phantom(2, slices=6)), folder / "c")
    return folder


def test_files_have_the_features_that_the_command_writes(tmp_path: Path, new: Path) -> None:
    run = ct_run(tmp_path / "run", width=0.125)
    words = ["embed", str(new), str(run), "-o", str(tmp_path / "f.parquet")]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    names = tables.read_tsv(tmp_path / "f.files.tsv").set_index("id")["file"]
    written = tables.read_parquet(tmp_path / "f.parquet")
    parts = written.pop("sample_id").str.rpartition("-")
    expected = {
        (names[volume], int(index)): row for volume, index, row in zip(parts[0], parts[2], written.to_numpy(), strict=True)
    }
    encoder = medssl.load(run, device="cpu")
    found = encoder.embed(new)
    assert list(found.columns) == list(written.columns) and found.index.names == ["image", "slice"]
    assert set(found.index) == set(expected) and found.index.is_monotonic_increasing
    assert set(found.index.get_level_values("image")) == {"a.nii.gz", "b/scan.nii", "c/0000.dcm"}
    for key, row in zip(found.index, found.to_numpy(), strict=True):
        assert np.allclose(row, expected[key], atol=1e-6)
    listed = encoder.embed([new / "b", new / "a.nii.gz"])
    assert np.allclose(listed, found.loc[["a.nii.gz", "b/scan.nii"]], atol=1e-6)
    assert [*dict.fromkeys(listed.index.get_level_values(0))] == ["a.nii.gz", "b/scan.nii"]


def test_the_transform_gives_what_the_network_takes_as_the_contract_says(tmp_path: Path) -> None:
    run = ct_run(tmp_path / "run", width=0.125)
    contract = json.loads((run / "contract.json").read_text()) | {"input_size": [32, 36]}
    (run / "contract.json").write_text(json.dumps(contract))
    encoder, image = medssl.load(run, device="cpu"), nifti()
    turned = nibabel.as_closest_canonical(image).as_reoriented(np.array([[0, -1], [1, 1], [2, -1]]))
    seen = encoder.transform([image, turned])
    wanted = ((np.asarray(image.dataobj, np.float32) + 160) / 400).clip(0, 1).transpose(2, 0, 1)[:, None]
    assert seen.shape == (10, 1, 32, 36)
    assert np.allclose(seen[:5], wanted, atol=1e-6) and np.allclose(seen[5:], wanted, atol=1e-6)
    with torch.inference_mode():
        features = encoder(seen).numpy()
    assert np.allclose(encoder.embed([image, turned]), features, atol=1e-6)
    assert np.array_equal(encoder.embed(seen), encoder.embed(seen.numpy()))
    assert np.allclose(encoder.embed(seen), features, atol=1e-6)
    assert encoder.num_features == features.shape[1] and not encoder.training
    assert "RAS+" in repr(encoder.transform) and "-160" in repr(encoder.transform)


def test_scaled_values_of_a_nibabel_image_are_not_rounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image = nifti()
    image.header.set_slope_inter(0.37, -12)
    nibabel.save(image, tmp_path / "scan.nii")
    encoder = medssl.load(ct_run(tmp_path / "run", width=0.125), device="cpu")
    stored, loaded = encoder.transform(tmp_path / "scan.nii"), encoder.transform(nibabel.load(tmp_path / "scan.nii"))
    assert torch.allclose(stored, loaded, atol=1e-4)  # of 400 HU: prepare keeps floats as 16-bit numbers
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "scan.nii"], (
        "a library leaves nothing in the working folder"
    )


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((32, 32, 5)), "shape (32, 32, 5)"),
        (np.zeros((2, 1, 32, 30)), "expected prepared images (n, 1, 32, 32)"),
        (np.zeros((2, 3, 32, 32)), "shape (2, 3, 32, 32)"),
        (np.zeros((0, 1, 32, 32)), "no image"),
        (np.zeros((2, 1, 32, 32), np.int16), "values of type torch.int16"),
        (torch.full((2, 1, 32, 32), -1000.0), "values from -1000 to -1000"),
        (torch.full((2, 1, 32, 32), float("nan")), "values from nan"),
        ([torch.zeros(1, 1, 32, 32)], "images are Tensor"),
        ([], "an empty list"),
        (7, "images are int"),
        ("nowhere", "nowhere does not exist"),
        (["nowhere", "."], "nowhere does not exist"),
        (nibabel.MGHImage(np.zeros((8, 8, 8), np.float32), np.eye(4)), "images are MGHImage"),
    ],
)
def test_what_would_be_a_guess_is_refused(tmp_path: Path, images: Any, words: str) -> None:
    encoder = medssl.load(ct_run(tmp_path / "run", width=0.125), device="cpu")
    with pytest.raises(StudyError) as refused:
        encoder.embed(images)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("images", "words", "never"),
    [
        (
            nibabel.Nifti1Image(np.zeros((32, 36), np.int16), np.eye(4)),
            "the given images: every file was refused",
            "medssl check",
        ),
        ([nifti(3), nibabel.Nifti1Image(phantom(4, (32, 36, 5)), np.diag([4, 4, 5, 1]))], "of 000001", "v-"),
    ],
)
def test_errors_speak_of_the_images_that_were_given(tmp_path: Path, images: Any, words: str, never: str) -> None:
    run = ct_run(tmp_path / "run", width=0.125)
    contract = json.loads((run / "contract.json").read_text())
    learnt = {"modalities": {"CT": 7}, "slice_axes": [2], "spacing_low_mm": [1, 1, 2], "spacing_high_mm": [1, 1, 3]}
    (run / "contract.json").write_text(json.dumps(contract | {"learnt": learnt}))
    with pytest.raises(MedsslError) as refused:
        medssl.load(run, device="cpu").embed(images)
    said = str(refused.value)
    assert words in said and never not in said and "medssl-" not in said
    assert "few_slices: " in said or "spacing along" in said.lower()


def test_what_no_network_runs_on_is_refused(tmp_path: Path) -> None:
    run = ct_run(tmp_path / "run", width=0.125)
    for device in ("cdua", "cuda:99"):
        with pytest.raises(StudyError, match=f"device '{device}' cannot be used here"):
            medssl.load(run, device=device)
    with pytest.raises(StudyError, match="batch_size is 0; expected at least 1"):
        medssl.load(run, device="cpu").embed(torch.rand(1, 1, 32, 32), batch_size=0)


def test_images_of_another_modality_are_refused_or_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = medssl.load(ct_run(tmp_path / "run", width=0.125), device="cpu")
    save(datasets(random_phantom(1, modality="MR", slices=6)), tmp_path / "mr")
    with pytest.raises(StudyError, match=r"force=True"):
        encoder.embed(tmp_path / "mr")
    assert len(encoder.embed(tmp_path / "mr", force=True)) == 6


def test_a_prepared_source_is_embedded_as_the_command_does(tmp_path: Path) -> None:
    run = ct_run(tmp_path / "run", "resnet18", 3, width=0.125)
    prepared = Path(write_prepared(tmp_path / "study", shape=(40, 40, 6))["samples"][0]).parent
    embed(prepared, run, tmp_path / "f.parquet")
    table = tables.read_parquet(tmp_path / "f.parquet")
    found = medssl.load(run, device="cpu").embed(prepared, batch_size=5)
    assert [f"{volume}-{index:04d}" for volume, index in found.index] == table["sample_id"].tolist()
    assert np.allclose(found, table.iloc[:, 1:], atol=1e-6)


def test_a_patch_of_a_3d_encoder_is_the_middle_of_the_volume(tmp_path: Path) -> None:
    run = ct_run(tmp_path / "run", "resnet18", 3, width=0.125)
    image = nifti(3, (40, 36, 40))
    encoder = medssl.load(run, device="cpu")
    seen = encoder.transform(image)
    values = ((np.asarray(image.dataobj, np.float32) + 160) / 400).clip(0, 1)
    assert np.allclose(seen[20, 0], values[4:36, 2:34, 4:36], atol=1e-6)


@pytest.mark.parametrize(
    ("library", "name", "dims", "options"),
    [
        ("hf", "unet", 2, {"features": (4, 4, 8, 8, 8, 4)}),
        ("monai", "resnet18", 3, {"width": 0.125}),
        ("torchvision", "resnet18", 2, {}),
        ("timm", "convnext_tiny", 2, {}),
        ("nnunet", "resenc", 3, {"features": (4, 8, 12), "blocks": (1, 2, 2)}),
    ],
)
def test_an_exported_folder_is_the_same_encoder(
    tmp_path: Path, library: str, name: str, dims: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medssl.nn.adapters.nnunet.require", lambda *_: None)  # of ResEncL's size
    run = ct_run(tmp_path / "run", name, dims, **options)
    export(run, library, tmp_path / "out")
    x = torch.rand(2, 1, *[32] * dims)
    with torch.inference_mode():
        ours, theirs = (medssl.load(folder, device="cpu")(x) for folder in (run, tmp_path / "out"))
    # a third of a weight is rounded
    assert torch.allclose(ours, theirs, atol=1e-4) if library == "torchvision" else torch.equal(ours, theirs)
    with pytest.raises(StudyError, match=f"was exported for {library} itself"):
        export(tmp_path / "out", "hf", tmp_path / "again")


def test_a_folder_that_is_not_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"holds no contract\.json"):
        medssl.load(tmp_path)
    ct_run(tmp_path / "run", width=0.125)
    (tmp_path / "run" / "encoder.safetensors").rename(tmp_path / "run" / "model.safetensors")
    with pytest.raises(StudyError, match="is a fine-tuned model, expected an encoder"):
        medssl.load(tmp_path / "run")


def test_the_package_imports_nothing_big_and_has_few_names() -> None:
    program = (
        "import sys, medssl; print([m for m in ('torch', 'pandas', 'numpy', 'nibabel') if m in sys.modules], len(medssl.__all__))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "[]" and int(said[1]) <= 10
    assert all(getattr(medssl, name) is not None for name in medssl.__all__) and set(medssl.__all__) <= set(dir(medssl))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        medssl.lod
