"""`medssl predict`: new DICOM, NIfTI and pictures go in, masks on their own grids or probabilities come out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from faults import nifti_image
from finetuning import SMALL, scratch_model, volume, write_scans
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from phantoms import datasets, random_phantom, save
from PIL import Image
from typer.testing import CliRunner

from medssl.cli import app
from medssl.core import tables
from medssl.core.errors import StudyError
from medssl.core.files import read_json
from medssl.finetune.inference import Inference
from medssl.finetune.predicting import Model
from medssl.finetune.scans import Scan
from medssl.ingest.dicom.label_objects import label_mask

CPU = torch.device("cpu")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepared_with(window: list[float]) -> dict[str, Any]:
    """The options that say how the source of a model was ingested and prepared."""
    return {
        "ingest": {"modality": "CT", "min_slices": 3},
        "prepare": {"window_hu": [window], "slice_axis": "auto"},
    }


def predict(model: Path, source: Path, out: Path, *options: str, force: bool = False) -> str:
    """What it prints."""
    words = ["predict", str(model), str(source), "-o", str(out), *options, *(["--force"] if force else [])]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def expected_mask(model: Model, image: nibabel.Nifti1Image) -> np.ndarray:
    """The mask by hand: nibabel turns the image to RAS+ and the answer back."""
    turn = io_orientation(image.affine)
    values = apply_orientation(np.asanyarray(image.dataobj), turn)
    ras = image.affine @ inv_ornt_aff(turn, image.shape)
    axis = int(np.argmax(np.linalg.norm(ras[:3, :3], axis=0).round(6)))
    along_k = np.moveaxis(values, axis, 2)
    scan = Scan(volume("x", along_k.shape, 0.0, 200.0), along_k, None, np.eye(4))
    ((_, shares),) = Inference(model.network, model.expected.size, CPU, overlap=0.5, flips=False).probabilities([scan])
    classes = shares.argmax(dim=0).numpy()
    mask = np.array(model.contract["mask_values"])[np.moveaxis(classes, 2, axis)]
    return apply_orientation(mask, nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), turn))


def test_masks_of_new_volumes_lie_on_their_own_grids(here: Path, finetune: Any, spec_of: Any) -> None:
    source = write_scans(here / "study")
    out = finetune(spec_of(source, **SMALL | {"max_steps": 12, "fractions": [1.0], "lr": 3e-3} | prepared_with([0.0, 200.0])))
    folder = scratch_model(out)
    given: dict[str, nibabel.Nifti1Image] = {}
    for seed in (3, 4):
        phantom = random_phantom(seed)
        given[f"case{seed}"] = nifti_image(phantom)
        save(datasets(phantom), here / "new" / f"case{seed}")
    image = np.load(source / "arrays" / "v-04.npy")
    affine = np.array([[0, 0, 1.25, -9], [-1.5, 0, 0, 4], [0, -4.0, 0, 77], [0, 0, 0, 1]])
    given["scan_ct.nii.gz"] = nibabel.Nifti1Image(np.ascontiguousarray(image.transpose(0, 2, 1)), affine)
    nibabel.save(given["scan_ct.nii.gz"], here / "new" / "scan_ct.nii.gz")
    (here / "new" / "notes.txt").write_text("nothing")
    classes = Model.open(folder).contract["classes"]
    predict(folder, here / "new", here / "answers", "--class-name", f"{classes[0]}=left lobe", force=True)  # CT; trained on MR
    rows = tables.read_tsv(here / "answers" / "files.tsv").set_index("id")
    files = rows["file"].str.removesuffix("/0000.dcm")  # of a series its first file
    assert set(files) == set(given)
    assert all(
        count == (1 if file.endswith(".gz") else given[file].shape[2])
        for file, count in zip(files, rows["num_files"], strict=True)
    )
    assert all((here / "answers" / path).is_file() for path in [*rows["mask"], *rows["segmentation"].dropna()])
    table = tables.read_tsv(here / "answers" / "masks.tsv", text=("class",))
    model = Model.open(folder)
    for name, truth in ((name, given[file]) for name, file in files.items()):
        mask = nibabel.load(here / "answers" / "masks" / f"{name}.nii.gz")
        assert mask.shape == truth.shape and np.allclose(mask.affine, truth.affine, atol=1e-3)
        found = np.asanyarray(mask.dataobj)
        assert (found == expected_mask(model, truth)).mean() > 0.999
        segmentation = here / "answers" / "segmentations" / f"{name}.dcm"
        assert segmentation.is_file() == files[name].startswith("case")
        if segmentation.is_file():
            back, _ = label_mask(segmentation.read_bytes(), mask.shape, truth.affine)  # segment n is the n-th class
            assert np.array_equal(np.array(model.contract["mask_values"])[back], found)
            header = pydicom.dcmread(segmentation, stop_before_pixels=True)
            source_header = pydicom.dcmread(here / "new" / files[name] / "0000.dcm")
            assert header.StudyInstanceUID == source_header.StudyInstanceUID and header.PatientID == source_header.PatientID
            assert [item.SegmentLabel for item in header.SegmentSequence] == ["left lobe", *classes[1:]]
        rows = table[table["volume_id"] == name]
        voxel_ml = abs(np.linalg.det(truth.affine[:3, :3])) / 1000
        assert np.allclose(rows["volume_ml"], [(found == value).sum() * voxel_ml for value in rows["value"]])
    assert tables.read_tsv(here / "answers" / "rejected.tsv")["code"].tolist() == ["not_an_image"]
    assert sorted(path.name for path in (here / "answers").iterdir()) == [
        *("files.tsv", "masks", "masks.tsv", "rejected.tsv", "segmentations"),
    ]
    the_folder_of_answers_is_not_written_over(folder, here)


def the_folder_of_answers_is_not_written_over(model: Path, here: Path) -> None:
    """Without --overwrite it stays as it is; with it the answers are replaced together, and what else lies there stays."""
    answers, small = here / "answers", here / "small"
    small.mkdir()
    shutil.copy(here / "new" / "scan_ct.nii.gz", small / "scan_ct.nii.gz")
    (answers / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in answers.rglob("*") if path.is_file()}
    with pytest.raises(StudyError, match=r"answers holds answers already \(masks, segmentations, files\.tsv.*--overwrite"):
        predict(model, small, answers, force=True)
    with pytest.raises(StudyError, match="does not exist"):
        predict(model, here / "nowhere", answers, "--overwrite", force=True)
    for given, words in (("liver", "expected a class and its name"), ("none=liver", "no such class. It has ")):
        with pytest.raises(StudyError, match=words):
            predict(model, small, answers, "--overwrite", "--class-name", given, force=True)
    assert before == {path: path.read_bytes() for path in answers.rglob("*") if path.is_file()}
    predict(model, small, answers, "--overwrite", force=True)
    (mask,) = (answers / "masks").iterdir()
    assert not (answers / "segmentations").exists() and (answers / "notes.txt").read_text() == "mine"
    assert tables.read_tsv(answers / "files.tsv")["mask"].tolist() == [f"masks/{mask.name}"]


def test_probabilities_of_new_pictures_and_slices(
    here: Path, image_source: Path, encoder: Path, finetune: Any, spec_of: Any
) -> None:
    out = finetune(spec_of(image_source, encoder, modes=["full"], fractions=[1.0], scratch=False, **prepared_with([0.0, 255.0])))
    folder = next((out / "models").iterdir())
    model = Model.open(folder)
    images = np.load(image_source / "arrays" / "v-00.npy")[..., :5]
    (here / "new").mkdir()
    for n in range(5):
        Image.fromarray(images[..., n].T.astype(np.uint8)).save(here / "new" / f"{n}.png")
    assert "no known patient" not in predict(folder, here / "new", here / "answers")
    files = tables.read_tsv(here / "answers" / "files.tsv").set_index("id")["file"]
    table = tables.read_tsv(here / "answers" / "probabilities.tsv", text=("predicted",)).set_index("case_id")
    names = [f"prob_{name}" for name in model.contract["classes"]]
    with torch.inference_mode():
        batch = torch.from_numpy(images.transpose(2, 0, 1)[:, None].astype(np.float32) / 255)
        truth = model.network(batch).softmax(dim=1).numpy()
    for case, row in table.iterrows():
        number = int(files[case].removesuffix(".png"))
        assert np.allclose(row[names].to_numpy(float), truth[number], atol=1e-5)
        assert row["predicted"] == model.contract["classes"][truth[number].argmax()]
    save(datasets(random_phantom(5)), here / "dicom")
    with pytest.raises(StudyError, match=r"^Kind of image 'volume of CT' of v-.* was trained on pictures alone; .*--force"):
        predict(folder, here / "dicom", here / "slices")
    predict(folder, here / "dicom", here / "slices", force=True)
    slices = tables.read_tsv(here / "slices" / "probabilities.tsv")
    assert len(slices) == len(list((here / "dicom").iterdir()))
    assert np.allclose(slices[names].sum(axis=1), 1)
    contract = read_json(folder / "contract.json")
    assert contract["ingest"] == {"modality": "CT", "min_slices": 3}
    (folder / "contract.json").write_text(json.dumps(contract | {"options": contract["options"] | {"aggregate": "unit"}}))
    assert "5 images are of no known patient" in predict(folder, here / "new", here / "of patients")
    assert "no known patient" not in predict(folder, here / "dicom", here / "of a scan", force=True)
    (here / "named").mkdir()
    for n in range(5):
        shutil.copy(here / "new" / f"{n}.png", here / "named" / f"{'a' if n < 2 else 'b'}_{n}.png")
    said = predict(folder, here / "named", here / "of two", "--subject-pattern", "^([ab])_")
    found = tables.read_tsv(here / "of two" / "probabilities.tsv")
    assert "no known patient" not in said and len(found) == 2
    wanted = sorted([truth[:2].mean(axis=0).tolist(), truth[2:].mean(axis=0).tolist()])
    assert np.allclose(sorted(found[names].to_numpy(float).tolist()), wanted, atol=1e-5)
    for pattern, words in (("[ab]_", "has no group"), ("([ab]", "is not a regular expression"), ("^(c)_", "subject_pattern")):
        with pytest.raises(StudyError, match=words):
            predict(folder, here / "named", here / "none", "--subject-pattern", pattern)
    with pytest.raises(StudyError, match="does not exist"):
        predict(folder, here / "nowhere", here / "x")


@pytest.fixture
def mr_model(here: Path, finetune: Any, spec_of: Any) -> Path:
    """A model of axial MR slices of 1.5 × 1.25 mm."""
    source = write_scans(here / "study")
    options = SMALL | {"max_steps": 1, "fractions": [1.0]} | prepared_with([0.0, 200.0])
    return scratch_model(finetune(spec_of(source, **options | {"ingest": {"modality": "auto", "min_slices": 3}})))


def scan_at(here: Path, name: str, spacing: tuple[float, float, float]) -> None:
    values = np.load(here / "study" / "2_prepare" / "hearts" / "arrays" / "v-04.npy")
    (here / "new").mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(values), np.diag([*spacing, 1.0])), here / "new" / name)


def refusal(model: Path, here: Path) -> str:
    result = CliRunner().invoke(app, ["predict", str(model), str(here / "new"), "-o", str(here / "out")])
    assert isinstance(result.exception, StudyError) and not list((here / "out").iterdir()), result.output
    return str(result.exception)


def test_the_contract_of_a_model_holds_what_new_images_must_be_like(mr_model: Path) -> None:
    contract = read_json(mr_model / "contract.json")
    assert contract["learnt"] == {
        **{"modalities": {"MR": 8}, "slice_axes": [2], "spacing_low_mm": [1.5, 1.25, 4.0], "spacing_high_mm": [1.5, 1.25, 4.0]},
    }
    assert (contract["window"]["low"], contract["window"]["rules"]) == (None, ["percentiles"])


def test_a_model_of_mr_refuses_ct_and_takes_it_by_force_with_a_warning(mr_model: Path, here: Path) -> None:
    save(datasets(random_phantom(3)), here / "new")
    said = refusal(mr_model, here)
    assert "holds no usable image" in said and "CT, where MR is kept" in said and "--force" in said
    forced = CliRunner().invoke(app, ["predict", str(mr_model), str(here / "new"), "-o", str(here / "out"), "--force"])
    assert forced.exit_code == 0 and "medssl: warning: modality CT of" in forced.stderr
    assert len(list((here / "out" / "masks").iterdir())) == 1


@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        ((3.0, 3.0, 4.0), "Spacing along i, j in mm 3 × 3 of"),
        ((4.0, 1.25, 1.5), "Slice axis (i: sagittal, j: coronal, k: axial) i of"),
    ],
)
def test_other_spacings_and_other_axes_are_refused(
    mr_model: Path, here: Path, spacing: tuple[float, float, float], words: str
) -> None:
    scan_at(here, "scan.nii.gz", spacing)
    said = refusal(mr_model, here)
    assert said.startswith(words) and "the model was trained on" in said and "--force" in said
    scan_at(here, "scan.nii.gz", (1.5, 1.3, 9.0))  # a network of slices does not see their distance
    predict(mr_model, here / "new", here / "fits")


def test_a_file_without_a_modality_counts_as_the_modality_of_the_training(mr_model: Path, here: Path) -> None:
    scan_at(here, "scan.nii.gz", (1.5, 1.25, 4.0))
    scan_at(here, "other_ct.nii.gz", (1.5, 1.25, 4.0))
    predict(mr_model, here / "new", here / "answers")
    assert tables.read_tsv(here / "answers" / "files.tsv")["file"].tolist() == ["scan.nii.gz"]
    assert tables.read_tsv(here / "answers" / "rejected.tsv")["code"].tolist() == ["other_modality"]
