"""`medssl init`: whatever a folder holds, the file that is written passes the checks, and takes each image into one source."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from phantoms import Phantom, datasets, save
from PIL import Image
from typer.testing import CliRunner

from medssl.cli import app
from medssl.core.errors import MedsslError, StudyError, TooManyRefusalsError
from medssl.ingest.checking import check_source
from medssl.study.file import load_study
from medssl.study.init import file_name_for

SMALL = {"columns": 12, "rows": 10, "slices": 4}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*words: str, by: type[MedsslError] | None = None) -> str:
    """What is printed; or the sentence of the error that is expected, after which there is no study file."""
    done = CliRunner().invoke(app, ["init", *words])
    if by is None:
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output
    assert isinstance(done.exception, by), (done.output, done.exception)
    return str(done.exception)


def study_of(folder: str = "in") -> dict:
    """The study that `init` writes for a folder, after `medssl specs` has accepted it; and what it says of itself."""
    init(folder, "--out", "mine.yaml")
    checked = CliRunner().invoke(app, ["specs", "mine.yaml"])
    assert checked.exit_code == 0, (checked.output, checked.exception, Path("mine.yaml").read_text())
    return dict(yaml.safe_load(Path("mine.yaml").read_text()))


def each_volume_is_in_one_source(folder: str = "in") -> None:
    """As stage ingest takes it with the options that were written; and no source holds two modalities."""
    study = load_study(files=["mine.yaml"])
    taken = {name: check_source(folder, options=study.ingest_of(name)).series for name in study.sources}
    assert sorted(row["volume_id"] for rows in taken.values() for row in rows) == sorted(
        row["volume_id"] for row in check_source(folder).series if row["kind"] == "volume"
    )
    assert all(len({row["modality"] for row in rows}) == 1 for rows in taken.values())


def text() -> str:
    return Path("mine.yaml").read_text()


def dicom(folder: str, *, patients: int = 1, modality: str = "CT", first: int = 0) -> None:
    for number in range(first, first + patients):
        phantom = Phantom(number, modality=modality, constant=300.0, **SMALL)
        save(datasets(phantom), Path(folder) / f"p{number}")


def nifti(name: str, values: np.ndarray) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])).to_filename(name)


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, (10, 12, 6)).astype(np.int16)


def mask(seed: int) -> np.ndarray:
    return (scan(seed) > 600).astype(np.uint8)


def picture(name: str, seed: int = 0) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60)).astype(np.uint8)).save(name)


def test_dicom_of_one_modality_is_one_source_that_keeps_it() -> None:
    dicom("in", patients=2)
    study = study_of()
    assert list(study["sources"]) == ["ct"] and study["sources"]["ct"]["ingest"] == {"modality": "CT"}
    assert study["prepare"] == {"window_hu": [[-1000, 1000]]} and "finetune" not in study
    assert study["pretrain"]["simclr"]["size"] == [32] and study["pretrain"]["simclr"]["batch_size"] == 4
    assert "2 volumes (CT), 8 slices, 2 patients" in text()
    assert study["sources"]["ct"]["prepare"]["split"] == {"val_frac": 0, "test_frac": 0}


def test_two_modalities_are_two_sources_and_two_pretrainings() -> None:
    dicom("in/a", modality="MR", first=7)
    dicom("in/b", patients=2)
    study = study_of()
    assert [(name, source["ingest"]["modality"]) for name, source in study["sources"].items()] == [("ct", "CT"), ("mr", "MR")]
    assert {run["cohort"] for run in study["pretrain"].values()} == {"ct", "mr"}
    assert set(study["prepare"]) == {"window_hu", "percentiles"}
    each_volume_is_in_one_source()


def test_names_of_nifti_are_believed_and_nameless_ones_are_a_source_of_their_own() -> None:
    for number, name in enumerate(("p1_ct", "p1_t1w", "p2_other")):
        nifti(f"in/{name}.nii.gz", scan(number))
    study = study_of()
    assert sorted(study["sources"]) == ["ct", "images", "mr"]
    each_volume_is_in_one_source()
    assert "excludes files of unknown modality; no " in text()


def test_volumes_that_do_not_say_what_they_are_are_not_taken_for_ct() -> None:
    nifti("in/scan.nii.gz", scan(0))
    study = study_of()
    assert list(study["sources"]) == ["images"] and "ingest" not in study["sources"]["images"]
    assert "# Assumed: not CT" in text() and "window_hu" not in text()


@pytest.mark.parametrize(("scan_name", "mask_name", "labels"), [
    ("in/{n}.nii.gz", "in/{n}_seg.nii.gz", None),
    ("in/old/{n}.nii.gz", "in/masks/{n}.nii.gz", "in/masks"),
])  # fmt: skip
def test_masks_beside_images_and_in_a_folder_of_their_own_are_a_task(scan_name: str, mask_name: str, labels: str | None) -> None:
    for number in range(10):
        nifti(scan_name.format(n=number), scan(number))
        nifti(mask_name.format(n=number), mask(number))
    study = study_of()
    source = study["sources"]["images"]
    assert study["finetune"]["masks"]["task"] == "segmentation" and study["finetune"]["masks"]["source"] == "images"
    assert source["prepare"]["split"] == {"val_frac": 0.2, "test_frac": 0.2}
    assert source.get("labels") == labels and ("masks of 10 of 10 volumes" in text()) == (labels is not None)
    assert (
        "10 patients are few" in text() and "folds: 5" in text() and "of 10 patients: 2 for validation, 2 for testing" in text()
    )
    assert study["finetune"]["masks"]["fractions"] == [1.0], "a share of fewer than two patients is no share"


def test_too_few_patients_get_no_task() -> None:
    for number in range(4):
        nifti(f"in/{number}.nii.gz", scan(number))
        nifti(f"in/{number}_seg.nii.gz", mask(number))
    assert "finetune" not in study_of() and "4 patients of images are too few for training" in " ".join(
        text().replace("#", "").split()
    )


def test_a_file_without_labels_says_what_labels_that_come_later_need() -> None:
    for number in range(6):
        nifti(f"in/{number}.nii.gz", scan(number))
    assert study_of()["sources"]["images"]["prepare"]["split"] == {"val_frac": 0, "test_frac": 0}
    assert "Will labels come later? Set both shares to 0.1 now." in text()


def test_several_masks_of_an_image_are_reported_and_none_is_chosen() -> None:
    for number in range(6):
        nifti(f"in/s{number}_ct.nii.gz", scan(number))
        for word in ("lesion", "organ"):
            nifti(f"in/s{number}_seg-{word}_msk.nii.gz", mask(number))
    assert "finetune" not in study_of() and "12 masks were not used" in text()


@pytest.mark.parametrize("mark", [",", "\t"])
def test_a_table_of_pictures_is_a_task_on_its_classes(mark: str) -> None:
    for number in range(40):
        picture(f"in/{number}.png", number)
    rows = [f"{number}{mark}{'ill' if number % 2 else 'well'}" for number in range(40)]
    Path("in/table.csv").write_text("\n".join([f"id{mark}label", *rows]) + "\n")
    study = study_of()
    assert study["sources"]["images"]["labels"] == "in/table.csv"
    assert study["finetune"]["classes"]["task"] == "classification" and "ill, well" in text()
    assert study["sources"]["images"]["prepare"]["split"] == {"val_frac": 0.1, "test_frac": 0.1}
    assert "classes of 40 of 40 pictures" in text() and study["pretrain"]["simclr"]["size"] == [64]


def test_a_table_of_patients_that_only_headers_know_is_found() -> None:
    dicom("in", patients=6)
    rows = [f"patient-{number}-a,{'yes' if number < 3 else 'no'}" for number in range(6)]
    Path("in/patients.csv").write_text("\n".join(["id,label", *rows]) + "\n")
    study = study_of()
    assert study["sources"]["ct"]["labels"] == "in/patients.csv" and study["finetune"]["classes"]["source"] == "ct"


@pytest.mark.parametrize(("table", "said"), [
    ("name,label\n1.png,ill\n", "table.csv was not used as labels: the table has the columns ['name', 'label']; it needs `id`"),
    ("id,sex\n1,f\n2,m\n", "names images but has no column `label`. Rename the column with the classes to `label`; it has sex."),
    ("id,label\n77,ill\n", "table.csv was not used as labels: none of the 1 rows"),
    ("id,label\n1,ill\n1,well\n", "say different things of one image"),
    ("id,label\n1,ill\n2,ill\n", "No task on the classes that were found, because a study would be refused: finetune.classes"),
    ("id,label\n1,0.125\n2,0.25\n3,0.5\n4,1.5\n5,2.5\n6,3.5\n7,4.5\n8,5.5\n9,6.5\n10,7.5\n11,8.5\n", "different numbers"),
])  # fmt: skip
def test_a_table_that_cannot_be_the_labels_is_reported_and_not_used(table: str, said: str) -> None:
    for number in range(12):
        picture(f"in/{number}.png", number)
    Path("in/table.csv").write_text(table)
    study = study_of()
    plain = " ".join(text().replace("\n#", " ").split())
    assert "finetune" not in study and (said in plain or said.replace("finetune.classes", "sources.images.labels") in plain)


def test_class_folders_with_the_parts_of_a_set_bring_their_classes_and_parts() -> None:
    for number in range(8):
        for part in ("train", "test"):
            for name in ("mild", "severe"):
                picture(f"in/{part}/{name}/{number}.png", number)
    study = study_of()
    assert study["finetune"]["classes"]["task"] == "classification" and "labels" not in study["sources"]["images"]
    assert "for images whose part is not given by their folder or file" in text()


@pytest.mark.parametrize(("names", "taken"), [(("benign", "malignant"), True), (("Doe_Jane", "Roe_Richard"), False)])
def test_folders_are_classes_only_if_their_names_are_not_patients(names: tuple[str, str], taken: bool) -> None:
    for number in range(10):
        for name in names:
            picture(f"in/{name}/{number}.png", number)
    study = study_of()
    assert (study["sources"]["images"].get("labels") == "folders") == ("finetune" in study) == taken
    assert ("# labels: folders" in text()) != taken
    assert all(name not in text() for name in names) or taken


def test_a_set_without_a_test_part_has_no_task_and_says_why() -> None:
    for number in range(8):
        for part in ("train", "val"):
            for name in ("mild", "severe"):
                picture(f"in/{part}/{name}/{number}.png", number)
    assert "finetune" not in study_of() and "expected a test part" in " ".join(text().replace("#", "").split())


def test_an_npz_with_labels_is_a_task() -> None:
    Path("in").mkdir()
    parts = {f"{part}_images": np.zeros((6, 9, 9), np.uint8) for part in ("train", "val", "test")}
    parts |= {f"{part}_labels": np.arange(6)[:, None] % 2 for part in ("train", "val", "test")}
    np.savez("in/set.npz", **parts)
    assert study_of()["finetune"]["classes"]["source"] == "images"


def test_pictures_beside_volumes_stay_out_and_are_counted() -> None:
    dicom("in", patients=1)
    picture("in/preview.png")
    assert list(study_of()["sources"]) == ["ct"]
    each_volume_is_in_one_source()
    assert "Pictures (PNG, JPEG, NPZ) beside volumes are left out, 1 of them" in text()


def test_nothing_is_overwritten_and_the_folder_of_images_is_not_written_to() -> None:
    dicom("in")
    init("in")
    first = Path("in.yaml").read_bytes()
    assert "in.yaml exists and is not overwritten" in init("in", by=StudyError)
    assert Path("in.yaml").read_bytes() == first
    assert "lies within in" in init("in", "--out", "in/mine.yaml", by=StudyError)


def test_an_unusable_folder_is_the_sentence_of_check_and_writes_nothing(here: Path) -> None:
    (here / "empty").mkdir()
    (here / "text").mkdir()
    (here / "text" / "README").write_text("no image")
    for words, error in ((["empty"], StudyError), (["absent"], StudyError), (["text"], TooManyRefusalsError)):
        said = init(*words, by=error)
        checked = CliRunner().invoke(app, ["check", *words]).exception
        assert isinstance(checked, error) and said == str(checked)
    assert not list(here.glob("*.yaml"))


def test_a_folder_around_the_current_one_is_refused_before_a_look(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "work").mkdir()
    monkeypatch.chdir(here / "work")
    assert "change to a separate folder, beside the images" in init("..", by=StudyError)
    assert not list(here.rglob("*.yaml"))


@pytest.mark.parametrize("name", ["a: b #c", "é'\"", "study", "…"])
def test_any_name_of_a_folder_is_yaml_and_names_a_study(here: Path, name: str) -> None:
    (here / "sub").mkdir()
    dicom(f"sub/{name}")
    init(f"sub/{name}")
    file = next(here.glob("*.yaml"))
    assert re.fullmatch(r"[a-z0-9_]+\.yaml", file.name)
    assert file_name_for("../Bäume und Köpfe") == "baume_und_kopfe.yaml"
    assert load_study(files=[file.name]).sources["ct"].path == f"sub/{name}"
    assert CliRunner().invoke(app, ["specs", file.name]).exit_code == 0
