"""Masks as DICOM Segmentation objects: voxel by voxel where the NIfTI mask is, of the source's patient and study, or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from faults import enhanced_file, nifti_image
from phantoms import Phantom, datasets, random_phantom, save, tilted

from medssl.api.predicting import write_segmentation
from medssl.core.errors import StudyError
from medssl.ingest.dicom.segmentation_object import Algorithm, segmentation_of

SEGMENTS = {"liver": 1, "tumour of the liver": 5}
ALGORITHM = Algorithm("simclr-hash-seed0", "1.2", "ab12")
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def labels(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Voxels of two classes at random, none of them in the first and the last third of any axis."""
    random, mask = np.random.default_rng(seed), np.zeros(shape, np.int16)
    inside = tuple(slice(n // 3, n - n // 3) for n in shape)
    mask[inside] = random.choice([0, 1, 5], mask[inside].shape)
    return mask


def points_of(mask: np.ndarray, affine: np.ndarray, value: int) -> np.ndarray:
    """Where the voxels of a value lie, RAS+ mm, sorted."""
    points = np.argwhere(mask == value) @ affine[:3, :3].T + affine[:3, 3]
    return points[np.lexsort(points.round(2).T)]


def points_in(made: pydicom.Dataset, number: int) -> np.ndarray:
    """The same of a segment of a Segmentation object, by the standard's own words (PS3.3 C.7.6.2.1.1)."""
    shared = made.SharedFunctionalGroupsSequence[0]
    along_row, along_column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found = []
    pixels = made.pixel_array.reshape(-1, made.Rows, made.Columns)
    for frame, plane in zip(made.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
            continue
        rows, columns = np.nonzero(plane)
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        lps = origin + columns[:, None] * between_columns * along_row + rows[:, None] * between_rows * along_column
        found.append(lps * [-1, -1, 1])
    points = np.concatenate(found)
    return points[np.lexsort(points.round(2).T)]


@pytest.mark.parametrize(
    "phantom",
    [
        random_phantom(0, slices=9),
        random_phantom(2, slices=9),
        random_phantom(4, slices=9, orientation=SAGITTAL),
        random_phantom(5, slices=9, modality="MR"),
        tilted(random_phantom(1, slices=9), 12),
    ],
    ids=["axial", "oblique", "sagittal", "MR", "tilted"],
)
@pytest.mark.parametrize("form", ["slices", "RAS", "one object"])
def test_segments_lie_where_the_mask_does(phantom: Phantom, form: str, tmp_path: Path) -> None:
    if form == "one object":
        order = np.random.default_rng(phantom.seed).permutation(phantom.slices)
        source = [enhanced_file(phantom, order=order)]
    else:
        source = datasets(phantom)
    files = save(source, tmp_path / "new", names=lambda n: f"{(7 * n) % 11}.dcm")
    affine = np.asarray(nifti_image(phantom).affine, float)
    image = nibabel.Nifti1Image(labels((phantom.columns, phantom.rows, phantom.slices), phantom.seed), affine)
    if form == "RAS":
        image = nibabel.as_closest_canonical(image)
    nibabel.save(image, tmp_path / "mask.nii.gz")
    write_segmentation(tmp_path / "out" / "seg.dcm", files, tmp_path / "mask.nii.gz", SEGMENTS, ALGORITHM)
    made = highdicom.seg.segread(tmp_path / "out" / "seg.dcm")
    mask = np.asarray(image.dataobj)
    for number, value in enumerate(SEGMENTS.values(), start=1):
        truth = points_of(mask, image.affine, value)
        assert np.allclose(points_in(made, number), truth, atol=1e-3) and len(truth)
    assert [item.SegmentLabel for item in made.SegmentSequence] == list(SEGMENTS)
    assert {item.SegmentAlgorithmName for item in made.SegmentSequence} == {ALGORITHM.model}
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert made[name].value == source[0].get(name, made[name].value)
    assert made.SeriesInstanceUID != source[0].SeriesInstanceUID and made.Modality == "SEG"
    referred = {item.ReferencedSOPInstanceUID for item in made.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referred == {dataset.SOPInstanceUID for dataset in source}


@pytest.mark.parametrize(
    ("coded", "person"),
    [(None, "DOE^JANE"), ("ISO_IR 100", "MÜLLER^JÜRGEN"), ("ISO 2022 IR 100", "MÜLLER^JÜRGEN"), ("ISO_IR 192", "山田^太郎")],
)
def test_names_keep_their_letters_and_none_of_a_patient_is_printed(
    coded: str | None, person: str, tmp_path: Path, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    phantom, source = random_phantom(0, slices=6), datasets(random_phantom(0, slices=6))
    for dataset in source:
        dataset.PatientName, dataset.PatientID = person, "WARD-7"
        dataset.ReferencedStudySequence = [pydicom.Dataset()]
        dataset.ReferencedStudySequence[0].ReferencedSOPInstanceUID = "1.2.3"
        if coded is not None:
            dataset.SpecificCharacterSet = coded
    files = save(source, tmp_path / "new")
    mask = np.ones((phantom.columns, phantom.rows, phantom.slices), np.uint8)
    mask[0] = 2
    nibabel.save(nibabel.Nifti1Image(mask, np.asarray(nifti_image(phantom).affine, float)), tmp_path / "mask.nii.gz")
    recwarn.clear()
    write_segmentation(tmp_path / "seg.dcm", files, tmp_path / "mask.nii.gz", {"肝臓": 1, "Größe a\\b": 2}, ALGORITHM)
    printed = "".join([*(str(one.message) for one in recwarn), *capfd.readouterr()])
    made = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [item.SegmentLabel for item in made.SegmentSequence] == ["肝臓", "Größe a/b"]
    assert str(made.PatientName) == person and made.PatientID == "WARD-7"
    assert "ReferencedStudySequence" not in made, "half a reference is not one"
    assert not printed


def without_last(files: list[Path]) -> list[Path]:
    return files[:-1]


def twice_the_first(files: list[Path]) -> list[Path]:
    return [*files[:-1], files[0]]


def another_frame_of_reference(files: list[Path]) -> list[Path]:
    header = pydicom.dcmread(files[2])
    header.FrameOfReferenceUID = "1.2.3"
    header.save_as(files[2])
    return files


def half_a_slice_off(files: list[Path]) -> list[Path]:
    header = pydicom.dcmread(files[2])
    header.ImagePositionPatient = np.add(header.ImagePositionPatient, [0, 0, 1.25]).tolist()
    header.save_as(files[2])
    return files


def not_dicom(files: list[Path]) -> list[Path]:
    files[0].write_bytes(b"changed since")
    return files


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_last, "the source has 8 frames of"),
        (twice_the_first, "two frames of the source lie at one place"),
        (another_frame_of_reference, "different frames of reference"),
        (half_a_slice_off, r"frame 3 of the source does not lie on the mask's grid \(off by 0\.50 voxels\)"),
        (not_dicom, r"cannot be read again \(InvalidDicomError\)"),
    ],
)
def test_a_source_that_is_not_the_masks_is_refused(
    change: Callable[[list[Path]], list[Path]], words: str, tmp_path: Path
) -> None:
    phantom = Phantom(3, slices=9)
    files = save(datasets(phantom), tmp_path / "new")
    mask = labels((phantom.columns, phantom.rows, 9), 3)
    with pytest.raises(StudyError, match=words):
        segmentation_of(change(files), mask, nifti_image(phantom).affine, SEGMENTS, ALGORITHM)


def test_several_frames_without_places_and_straightened_stacks_are_refused(tmp_path: Path) -> None:
    phantom = tilted(Phantom(3, slices=9), 12)
    mask = labels((phantom.columns, phantom.rows, 9), 3)
    files = save(datasets(phantom), tmp_path / "tilted")
    upright = nifti_image(replace(phantom, orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0))).affine
    with pytest.raises(StudyError, match="does not lie on the mask's grid"):
        segmentation_of(files, mask, upright, SEGMENTS, ALGORITHM)
    plain = enhanced_file(Phantom(3, slices=9))
    del plain.PerFrameFunctionalGroupsSequence
    files = save([plain], tmp_path / "plain")
    with pytest.raises(StudyError, match="does not say where each of them lies"):
        segmentation_of(files, mask, nifti_image(Phantom(3, slices=9)).affine, SEGMENTS, ALGORITHM)
    beside = datasets(Phantom(3, slices=2))
    beside[0].FrameOfReferenceUID = beside[1].FrameOfReferenceUID = plain.FrameOfReferenceUID
    files = save([enhanced_file(Phantom(3, slices=9)), *beside], tmp_path / "mixed")
    with pytest.raises(StudyError, match="3 objects, and one of them holds several frames"):
        segmentation_of(files, mask, nifti_image(Phantom(3, slices=9)).affine, SEGMENTS, ALGORITHM)
