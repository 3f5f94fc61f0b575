"""Pictures that lie beside volumes, or are masks of pictures, are never read as CT or as images without a remark."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from faults import nifti_image
from phantoms import datasets, random_phantom, save
from PIL import Image

from medssl.core.rng import rng
from medssl.ingest.checking import Checked, check_source
from medssl.ingest.options import IngestOptions


def _grey(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng(seed, "grey").integers(0, 256, (24, 32)).astype(np.uint8)).save(path)


def _binary(path: Path, *, empty: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((24, 32), np.uint8)
    values[8:16, 8:20] = 0 if empty else 255
    Image.fromarray(values).save(path)


def _kinds(checked: Checked) -> list[tuple[str, str]]:
    return sorted((row["kind"], row["modality"]) for row in checked.series)


def _codes(checked: Checked) -> list[str]:
    return sorted(row["code"] for row in checked.items if row["code"])


@pytest.mark.parametrize("modality", ["CT", ["CT"], ["CT", "PT"]])
def test_pictures_beside_dicom_are_not_ct_and_the_hint_holds(modality: str | list[str], tmp_path: Path) -> None:
    save(datasets(random_phantom(1)), tmp_path / "ct")
    for n in range(3):
        _grey(tmp_path / "viewer" / f"preview{n}.png", n)
    np.savez(tmp_path / "set.npz", images=rng(1, "set").integers(0, 256, (3, 8, 8)).astype(np.uint8))
    checked = check_source(tmp_path)
    assert _kinds(checked) == [("images", "OT"), ("images", "OT"), ("volume", "CT")]
    (said,) = checked.remarks
    assert said.startswith("The source holds 3 pictures (PNG, JPEG) beside 1 volume") and "set ingest.modality" in said
    checked = check_source(tmp_path, options=IngestOptions(modality=modality))
    assert _kinds(checked) == [("volume", "CT")] and checked.remarks == []
    assert _codes(checked) == ["other_modality"] * 4
    assert any("pictures beside volumes" in row["sentence"] for row in checked.rejected)


def test_where_the_volumes_state_nothing_either_the_remedy_is_to_move_the_pictures(tmp_path: Path) -> None:
    nibabel.save(nifti_image(random_phantom(1)), tmp_path / "p1.nii.gz")
    _grey(tmp_path / "figure.png")
    (said,) = check_source(tmp_path).remarks
    assert "beside 1 volume" in said and "move them out" in said and "1 picture (" in said


def test_a_picture_that_is_the_mask_of_another_is_refused(tmp_path: Path) -> None:
    for n in range(2):
        _grey(tmp_path / f"case{n}.png", n)
        _grey(tmp_path / f"case{n}_mask.png", n + 2)
        _grey(tmp_path / "images" / f"{n}.jpg", n)
        _binary(tmp_path / "masks" / f"{n}.png")
    checked = check_source(tmp_path)
    assert sum(row["shape"][2] for row in checked.series) == 4
    refused = {row["file"] for row in checked.items if row["code"] == "picture_mask"}
    assert set(_codes(checked)) == {"picture_mask"}
    assert refused == {
        "case0_mask.png",
        "case1_mask.png",
        "masks/0.png",
        "masks/1.png",
    }


@pytest.mark.parametrize("empty", [False, True])
def test_a_picture_with_name_and_values_of_a_mask_is_refused_wherever_it_lies(empty: bool, tmp_path: Path) -> None:
    save(datasets(random_phantom(1)), tmp_path / "CT" / "DICOM_anon")
    for n in range(3):
        _binary(tmp_path / "CT" / "Ground" / f"liver_GT_{n:03d}.png", empty=empty)
    checked = check_source(tmp_path)
    assert _kinds(checked) == [("volume", "CT")] and _codes(checked) == ["picture_mask"] * 3


def test_values_alone_or_a_name_alone_refuse_nothing(tmp_path: Path) -> None:
    for n in range(3):
        _binary(tmp_path / "a" / f"{n}.png")
        _grey(tmp_path / "b" / f"{n}_mask.png", n)
    for name, warnings in (("a", ["few_values"]), ("b", [])):
        checked = check_source(tmp_path / name)
        assert [row["shape"][2] for row in checked.series] == [3] and not checked.rejected
        assert checked.series[0]["warnings"] == warnings


# Labels of an archive


def _archive(folder: Path, labels: np.ndarray) -> Path:
    folder.mkdir()
    np.savez(folder / "set.npz", images=rng(1, "set").integers(0, 256, (4, 8, 8)).astype(np.uint8), labels=labels)
    return folder


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64])
def test_whole_numbers_are_labels_whatever_their_type(dtype: type, tmp_path: Path, readers) -> None:
    request = _request(_archive(tmp_path / "a", np.array([[0], [1], [2], [1]], dtype)), tmp_path)
    answer = readers.ask("npz", request, memory_mb=400, timeout_s=60)
    assert answer["labels"] == [[0, 1, 2, 1]] and all(isinstance(label, int) for label in answer["labels"][0])


def _request(folder: Path, target: Path) -> dict[str, object]:
    stat = (folder / "set.npz").stat()
    file = {"path": str(folder / "set.npz"), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    return {"file": file, "names": ["images"], "dtype": "|u1", "target": str(target / "out.npy")}


@pytest.mark.parametrize(
    ("labels", "code", "said"),
    [
        (np.array([0.0, 1.5, np.nan, 1.0]), "labels_type", "2 of 4 of type float64 are not whole numbers"),
        (np.array([0.0, 1.5, 2.0, 1.0]), "labels_type", "1 of 4 of type float64"),
        (np.array([0.0, np.inf, 1e300, 1.0]), "labels_type", "2 of 4 of type float64"),
        (np.array(["a", "b", "a", "b"]), "labels_type", "labels of type <U1"),
        (np.zeros((4, 14), int), "labels_type", "labels of shape [4, 14]"),
        (np.zeros(3), "labels_mismatch", "4 images, labels of shape [3]"),
        (np.zeros(()), "labels_mismatch", "4 images, labels of shape []"),
    ],
)
def test_the_sentence_says_what_is_wrong_with_labels(labels: np.ndarray, code: str, said: str, tmp_path: Path) -> None:
    (row,) = check_source(_archive(tmp_path / "a", labels)).rejected
    assert row["code"] == code and said in row["sentence"]
