"""Parts of a scan in one series: time points that were cut short, slabs that another tag sets apart, slices that are missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from faults import faults_objects, faults_slices
from ingesting import Ingested, ingest
from phantoms import datasets, largest_error, random_phantom, save
from pydicom.dataset import FileDataset


def test_harmless_classes_are_those_that_must_be_right(tmp_path: Path) -> None:
    sound = {name for name, fault in faults_objects.OBJECT_FAULTS.items() if fault(tmp_path / name, 3).must_be_right}
    assert sound == set(faults_objects.HARMLESS)


def _time_points(tmp_path: Path, readers, kept: int, tag: str) -> Ingested:
    """Three scans of 20 places, the last of which has its first `kept` slices."""
    one = random_phantom(3, modality="MR", constant=600.0, slices=20)
    truths = [replace(one, constant=600.0 + 50 * t) for t in range(3)]

    def numbered(ds: FileDataset, t: int, number: int) -> None:
        setattr(ds, tag, t + 1)

    save(faults_slices.scans(truths, numbered)[: 40 + kept], tmp_path / "s" / "case")
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"]
    for values, affine, _ in found.volumes:
        assert min(largest_error(values, affine, replace(t, slices=min(values.shape[2], 20))) for t in truths) <= 0.51
    return found


@pytest.mark.parametrize("tag", ["TemporalPositionIdentifier", "EchoTime"])
@pytest.mark.parametrize("kept", [13, 8, 3])
def test_a_time_point_cut_short_is_never_silent(tag: str, kept: int, tmp_path: Path, readers) -> None:
    found = _time_points(tmp_path, readers, kept, tag)
    warned = {row["num_files"]: "fewer_slices" in row["warnings"] for _, _, row in found.volumes}
    assert warned == {20: False, kept: True} and not found.rejected


@pytest.mark.parametrize("kept", [1, 2])
def test_a_stump_of_a_time_point_does_not_keep_the_others_back(kept: int, tmp_path: Path, readers) -> None:
    found = _time_points(tmp_path, readers, kept, "TemporalPositionIdentifier")
    assert sorted(row["time_index"] for _, _, row in found.volumes) == [0, 1]
    assert [row["code"] for row in found.rejected] == ["incomplete"]
    assert f"time point 3 has {kept} of the 20 slices" in found.rejected[0]["sentence"]


def test_few_missing_slices_of_a_time_point_are_refused(tmp_path: Path, readers) -> None:
    found = _time_points(tmp_path, readers, 18, "TemporalPositionIdentifier")
    assert not found.volumes and found.codes == {"incomplete"}


DIVIDING = {
    "PatientID": ("part_by_patient", "patient"),
    "StudyInstanceUID": ("part_by_patient", "study"),
    "SeriesNumber": ("part_by_series", "series number"),
    "FrameOfReferenceUID": ("part_by_frame", "frame of reference"),
    "ImageType": ("part_by_type", "image type"),
    "KVP": ("part_by_contrast", "tube voltage"),
    "ConvolutionKernel": ("part_by_contrast", "kernel"),
}


def _divided(tag: str, slab: range, folder: Path, readers) -> Ingested:
    """One scan of 20 slices, of which a slab states something else."""
    made = datasets(random_phantom(5, slices=20))
    others = {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "LOW"], "KVP": 77, "ConvolutionKernel": "B99", "SeriesNumber": 77}
    for number in slab:
        setattr(made[number], tag, others.get(tag, "1.2.3.77"))
    save(made, folder / "s" / "case")
    return ingest(folder / "s", folder / "x", readers=readers)["case"]


@pytest.mark.parametrize("tag", DIVIDING)
@pytest.mark.parametrize("start", [12, 17])
def test_a_part_of_a_scan_says_what_divides_it_from_the_next(tag: str, start: int, tmp_path: Path, readers) -> None:
    found = _divided(tag, range(start, 20), tmp_path, readers)
    assert {row["num_files"]: row["warnings"] for _, _, row in found.volumes} == {
        start: [DIVIDING[tag][0]],
        20 - start: [DIVIDING[tag][0]],
    }


@pytest.mark.parametrize("tag", DIVIDING)
def test_a_slab_in_the_middle_is_no_missing_slice(tag: str, tmp_path: Path, readers) -> None:
    found = _divided(tag, range(8, 12), tmp_path, readers)
    (row,) = found.rejected
    assert row["code"] in ("mixed_patient", "mixed_series", "mixed_frame", "mixed_content") and row["num_files"] == 16
    assert f"4 slices lie in the gaps between 16 others and differ from them in {DIVIDING[tag][1]}" in row["sentence"]
    assert [volume[2]["warnings"] for volume in found.volumes] == [[DIVIDING[tag][0]]]


def test_a_slice_that_is_missing_beside_a_slab_is_missing(tmp_path: Path, readers) -> None:
    _divided("KVP", range(8, 12), tmp_path, readers)
    sorted((tmp_path / "s" / "case").iterdir())[10].unlink()
    found = ingest(tmp_path / "s", tmp_path / "y", readers=readers)["case"]
    assert "missing_slice" in found.codes
