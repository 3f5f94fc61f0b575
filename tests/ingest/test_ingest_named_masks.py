"""Files whose names say that they are masks: images where nothing else is one, and masks whose image is not certain."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from faults import nifti_image
from phantoms import datasets, random_phantom, save

from medssl.ingest.checking import Checked, check_source
from medssl.ingest.summary import screen_lines


def _image(path: Path, seed: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nifti_image(random_phantom(seed)), path)


def _mask(path: Path, seed: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nifti_image(random_phantom(seed))
    nibabel.save(nibabel.Nifti1Image((np.asarray(image.dataobj) > np.median(image.dataobj)).astype(np.uint8), image.affine), path)


def _sentences(checked: Checked) -> list[str]:
    return [row["sentence"] for row in checked.rejected]


@pytest.mark.parametrize("names", [("a/gt.nii.gz", "b/gt.nii.gz"), ("seg/a.nii.gz", "seg/b.nii.gz")])
def test_where_nothing_else_is_an_image_the_values_say_what_a_file_is(names: tuple[str, str], tmp_path: Path) -> None:
    _image(tmp_path / names[0])
    _mask(tmp_path / names[1])
    checked = check_source(tmp_path)
    assert len(checked.series) == 1
    assert [row["code"] for row in checked.rejected] == ["label_map"]
    assert "its name, folder or header says a mask" in _sentences(checked)[0]
    assert any("say that they are masks" in remark for remark in checked.remarks)


def test_beside_dicom_they_are_masks_and_the_sentence_says_why(tmp_path: Path) -> None:
    _image(tmp_path / "seg" / "a.nii.gz")
    save(datasets(random_phantom(2)), tmp_path / "ct")
    checked = check_source(tmp_path)
    assert [row["code"] for row in checked.rejected] == ["mask_without_image"]
    assert "its name or folder says that it is a mask" in _sentences(checked)[0]
    assert "rename" in _sentences(checked)[0]


def test_a_mask_that_may_be_of_several_images_names_them(tmp_path: Path) -> None:
    """In the ledger by their ids, on a person's own screen by their files."""
    for number, kind in enumerate(("ct", "t1")):
        _image(tmp_path / f"pt_{kind}.nii.gz", number)
    _mask(tmp_path / "pt_seg.nii.gz")
    checked = check_source(tmp_path)
    (said,) = _sentences(checked)
    assert "2 images may be meant" in said and "column `mask`" in said
    assert all(row["series_id"] in said for row in checked.series) and "pt_" not in said
    screen = "\n".join(screen_lines(checked))
    assert "2 images may be meant" in screen and all(
        f"pt_{kind}.nii.gz" in screen.split("may be meant")[1] for kind in ("ct", "t1")
    )


def test_a_volume_of_few_values_is_warned_of_in_words_that_hold_without_the_name(tmp_path: Path) -> None:
    _mask(tmp_path / "pt_1.nii.gz")
    checked = check_source(tmp_path)
    assert checked.series[0]["warnings"] == ["label_map"]
    assert not any("name says" in line or "mask's name" in line for line in screen_lines(checked))
