"""`offset_hu` gives a CT without its offset the values of the file that has it, and changes nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from faults import nifti_image
from grid_files import metaimage_keys, nrrd_fields, write_metaimage, write_nrrd
from ingesting import Ingested, ingest
from phantoms import random_phantom

from medssl.core.errors import StudyError
from medssl.finetune.options import concerning_new_images
from medssl.ingest.options import IngestOptions
from medssl.study.file import load_study


def write(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    """A file in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".nrrd":
        write_nrrd(path, values, nrrd_fields(values, affine))
    elif path.suffix == ".mha":
        write_metaimage(path, values, metaimage_keys(values, affine))
    else:
        nibabel.save(nibabel.Nifti1Image(values, affine), path)


def one(found: Ingested) -> tuple[np.ndarray, np.ndarray, dict]:
    ((values, affine, row),) = found.volumes
    return values, affine, row


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "float32"])
def test_a_ct_with_the_offset_is_the_ct_in_hounsfield_units(tmp_path: Path, readers, suffix: str, dtype: str) -> None:
    image = nifti_image(random_phantom(3))
    body = np.clip(np.asarray(image.dataobj), -1000, None)
    write(tmp_path / "right" / "a" / f"sub-1_ct{suffix}", body.astype(np.int16), image.affine)
    write(tmp_path / "bare" / "a" / f"sub-1_ct{suffix}", (body + 1024).astype(dtype), image.affine)
    wanted, affine, row = one(ingest(tmp_path / "right", tmp_path / "x", readers=readers)["a"])
    values, ours, got = one(ingest(tmp_path / "bare", tmp_path / "y", readers=readers, options={"offset_hu": -1024})["a"])
    np.testing.assert_array_equal(values, wanted)
    np.testing.assert_array_equal(ours, affine)
    assert got["warnings"] == row["warnings"]
    if dtype != "float32":
        assert got["dtype"] == row["dtype"] == "int16"


def test_an_mr_of_the_source_keeps_its_values(tmp_path: Path, readers) -> None:
    image = nifti_image(random_phantom(4, modality="MR", constant=600.5))
    for folder in ("with", "without"):
        write(tmp_path / folder / "a" / "sub-1_T1w.nii.gz", np.asarray(image.dataobj), image.affine)
    wanted, _, row = one(ingest(tmp_path / "without", tmp_path / "x", readers=readers)["a"])
    values, _, got = one(ingest(tmp_path / "with", tmp_path / "y", readers=readers, options={"offset_hu": -1024})["a"])
    assert row["modality"] == got["modality"] == "MR"
    np.testing.assert_array_equal(values, wanted)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda body, air: np.where(air, -1000, body), "below air"),  # one value, as padding has
        (lambda body, air: np.where(air, body // 8 - 950, body), "below air"),
        (lambda body, air: 40 + body // 16, "nothing is tissue"),  # the inside of a head
    ],
    ids=["constant air", "noisy air", "no air"],
)
def test_a_file_that_holds_hounsfield_units_already_is_refused(tmp_path: Path, readers, body: Any, reason: str) -> None:
    image = nifti_image(random_phantom(3, constant=20.0))
    values = np.asarray(image.dataobj)
    air = np.arange(len(values))[:, None, None] < len(values) // 8
    write(tmp_path / "s" / "a" / "sub-1_ct.nii.gz", body(values, air).astype(np.int16), image.affine)
    one(ingest(tmp_path / "s", tmp_path / "x", readers=readers)["a"])
    found = ingest(tmp_path / "s", tmp_path / "y", readers=readers, options={"offset_hu": -1024})["a"]
    assert found.codes == {"implausible_hu"} and not found.volumes
    assert reason in found.rejected[0]["sentence"]


def test_padding_below_air_stays_padding(tmp_path: Path, readers) -> None:
    """Stored values of a scanner: -2000 outside of the circle, and HU + 1024 within."""
    image = nifti_image(random_phantom(3, constant=20.0))
    values = np.asarray(image.dataobj) + np.int16(1024)
    values[: len(values) // 8] = -2000
    write(tmp_path / "s" / "a" / "sub-1_ct.nii.gz", values, image.affine)
    got, _, _ = one(ingest(tmp_path / "s", tmp_path / "x", readers=readers, options={"offset_hu": -1024})["a"])
    assert sorted({int(got.min()), int(np.median(got))}) == [-3024, int(np.median(values)) - 1024]


def test_the_refusal_of_a_ct_without_offset_names_the_option(tmp_path: Path, readers) -> None:
    image = nifti_image(random_phantom(3, constant=20.0))
    write(tmp_path / "s" / "a" / "sub-1_ct.nii.gz", np.asarray(image.dataobj) + np.int16(2024), image.affine)
    (refused,) = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["a"].rejected
    assert refused["code"] == "implausible_hu" and "ingest.offset_hu" in refused["sentence"]


@pytest.mark.parametrize("modality", ["MR", ["MR", "PT"]])
def test_an_offset_without_a_ct_is_refused_before_any_work(modality: object) -> None:
    with pytest.raises(StudyError, match=r"offset_hu -1024 is added to CT alone"):
        load_study({"sources": {"a": {"path": "x"}}, "ingest": {"offset_hu": -1024, "modality": modality}})
    for other in ("auto", "CT", ["CT", "MR"]):
        load_study({"sources": {"a": {"path": "x"}}, "ingest": {"offset_hu": -1024, "modality": other}})


def test_new_images_of_a_model_get_the_offset_of_its_source() -> None:
    assert concerning_new_images("ingest", IngestOptions(offset_hu=-1024).model_dump())["offset_hu"] == -1024
