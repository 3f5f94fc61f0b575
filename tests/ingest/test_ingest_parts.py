"""Parts of a scan in one series: time points that were cut short, slabs that another tag divides, missing slices."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults import faults_objects, faults_slices
from ingesting import Ingested, ingest
from phantoms import datasets, largest_error, random_phantom, save
from pydicom.dataset import FileDataset

from medssl.core.rng import rng
from medssl.ingest.checking import check_source
from medssl.ingest.dicom.steps import line_of
from medssl.ingest.refusal import Refusal


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
def test_a_slab_in_the_middle_is_not_a_missing_slice(tag: str, tmp_path: Path, readers) -> None:
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


def _refused(depths: np.ndarray, *, interpolate: bool = False) -> Refusal:
    positions = np.outer(depths, [0.0, 0.0, 1.0])
    with pytest.raises(Refusal) as refused:
        line_of(positions, np.array([0.0, 0.0, 1.0]), 0.8, interpolate=interpolate, hint="; a hint")
    return refused.value


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("lost", [9, 13, 18])
@pytest.mark.parametrize("interpolate", [False, True])
def test_slices_lost_here_and_there_are_missing_however_many(seed: int, lost: int, interpolate: bool) -> None:
    """Slices of an even scan of 40 that a transfer lost may not be interpolated, nor be called a scan of uneven steps."""
    places = np.sort(1 + rng(seed, "lost").permutation(38)[: 38 - lost])
    depths = 1.25 * np.array([0, *places, 39])
    refusal = _refused(depths, interpolate=interpolate)
    assert refusal.code == "missing_slice" and "hint" not in refusal.sentence
    assert f"{lost} of 40 places are empty" in refusal.sentence or "most others 1.25" in refusal.sentence


@pytest.mark.parametrize("steps", [[2.5] * 8 + [5.0] * 8, [2.5] * 7 + [3.75] + [5.0] * 7, [1.0, 1.7] * 6, [5.0] * 9 + [2.0] * 9])
def test_a_sentence_names_the_steps_that_occur_and_how_often(steps: list[float]) -> None:
    refusal = _refused(np.cumsum([0.0, *steps]))
    assert refusal.code == "uneven"
    said = re.findall(r"([0-9.]+) mm \((once|[0-9]+ times)\)", refusal.sentence)
    assert {float(step): 1 if count == "once" else int(count.split()[0]) for step, count in said} == Counter(steps)


def test_a_scan_of_two_steps_may_be_interpolated() -> None:
    depths = np.cumsum([0.0, *[2.0] * 9, *[4.0] * 9])
    line = line_of(np.outer(depths, [0, 0, 1.0]), np.array([0, 0, 1.0]), 0.8, interpolate=True, hint="")
    assert not line.even


@pytest.mark.parametrize(("odd", "code"), [(1, "colour"), (3, "colour"), (2, "no_position")])
def test_a_sentence_on_a_series_says_how_many_files_it_is_true_of(odd: int, code: str, tmp_path: Path) -> None:
    made = datasets(random_phantom(4, slices=9))
    for ds in made[:odd]:
        if code == "colour":
            ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
            ds.PixelData = ds.PixelData * 3
        else:
            del ds.ImagePositionPatient
    names = [path.name for path in save(made, tmp_path)]
    checked = check_source(tmp_path)
    (row,) = checked.rejected
    assert row["code"] == code and row["num_files"] == 9 and f"{odd} of 9 files" in row["sentence"]
    for item in checked.items:
        assert ("this one is sound" in item["sentence"]) == (item["file"] in names[odd:])


def test_a_series_in_doubt_says_how_many_files_are_damaged_and_of_which_kind(tmp_path: Path) -> None:
    paths = save(datasets(random_phantom(4, slices=9)), tmp_path)
    paths[-1].write_bytes(b"")
    for path in paths[3:5]:
        path.write_bytes(path.read_bytes()[:-7])
    checked = check_source(tmp_path)
    (row,) = [row for row in checked.rejected if row["code"] == "damaged_neighbour"]
    assert "3 files (2 truncated, 1 empty)" in row["sentence"]
    assert not any(path.name in str(checked.rejected) for path in paths)
    (said,) = {item["sentence"] for item in checked.items if item["code"] == "damaged_neighbour"}
    assert all(path.name in said for path in (paths[-1], *paths[3:5])) and paths[0].name not in said


def test_files_that_end_at_different_places_have_one_sentence_that_counts(tmp_path: Path) -> None:
    paths = save(datasets(random_phantom(4, slices=9)), tmp_path)
    for number, path in enumerate(paths[2:5]):
        path.write_bytes(path.read_bytes()[: 400 + 60 * number])
    rows = [row for row in check_source(tmp_path).rejected if row["code"] == "truncated"]
    assert all("(1 of 3 files)" in row["sentence"] for row in rows if row["num_files"] == 3) and rows
