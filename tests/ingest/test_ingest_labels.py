"""Label objects and masks land on their image's voxels, or are refused with the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from faults import nifti_image
from faults_masks import outline_of, structure_set
from ingesting import Ingested, ingest
from phantoms import Phantom, datasets, random_phantom, save
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medssl.core.errors import StudyError
from medssl.core.file_names import pair_masks
from medssl.core.patient_names import subject_of
from medssl.core.rng import rng
from medssl.ingest.dicom.contours import inside_polygon
from medssl.ingest.inventory import Labels, labels_of


def _structures(phantom: Phantom, seed: int) -> np.ndarray:
    """A label image `(i, j, k)` in the source grid: two boxes."""
    mask = np.zeros((phantom.columns, phantom.rows, phantom.slices), np.uint8)
    r = rng(seed, "boxes")
    for label in (1, 2):
        low = r.integers(1, 6, 3) + np.array([0, 7 * (label - 1), 0])
        mask[tuple(slice(a, a + 4 + label) for a in low)] = label
    return mask


def _read_mask(found: Ingested) -> tuple[np.ndarray, np.ndarray]:
    return np.load(found.folders[0] / "mask.npy"), found.volumes[0][1]


def _in_world(mask: np.ndarray, affine: np.ndarray, label: int) -> np.ndarray:
    points = np.argwhere(mask == label) @ affine[:3, :3].T + affine[:3, 3]
    return points[np.lexsort(points.round(3).T)]


def _same(mask: np.ndarray, affine: np.ndarray, truth: np.ndarray, phantom: Phantom) -> None:
    truth_affine = nifti_image(phantom).affine
    for label in (1, 2):
        assert np.allclose(_in_world(mask, affine, label), _in_world(truth, truth_affine, label), atol=1e-3)


def _segmentation(phantom: Phantom, made: list[Dataset]) -> tuple[Dataset, np.ndarray]:
    """A DICOM SEG of two boxes in half of the series, and the truth `(i, j, k)`; `made` gets what highdicom asks for."""
    highdicom = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes

    for ds in made:
        ds.PatientName, ds.PatientBirthDate, ds.StudyDate, ds.StudyTime = "A^B", "19700101", "20200101", "101010"
        ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "1", "1", "C^D"
    truth = _structures(phantom, phantom.seed)
    truth[:, :, phantom.slices // 2 :] = 0
    description = [
        highdicom.seg.SegmentDescription(
            segment_number=n,
            segment_label=f"s{n}",
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Bone,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for n in (1, 2)
    ]
    segmentation = highdicom.seg.Segmentation(
        source_images=made,
        pixel_array=np.stack([truth.transpose(2, 1, 0) == n for n in (1, 2)], axis=-1).astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=description,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    )
    return segmentation, truth


@pytest.mark.parametrize("seed", range(3))
def test_segmentation_lands_on_its_image(seed: int, tmp_path: Path, readers) -> None:
    phantom = random_phantom(seed)
    made = datasets(phantom)
    segmentation, truth = _segmentation(phantom, made)
    save(made, tmp_path / "s" / "case")
    segmentation.save_as(tmp_path / "s" / "case" / "seg.dcm")
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"]
    assert not found.rejected
    assert found.volumes[0][2]["label"]
    _same(*_read_mask(found), truth, phantom)


def _structure_set(phantom: Phantom, made: list[Dataset], rois: dict[int, list[np.ndarray]]) -> Dataset:
    """An RTSTRUCT with closed contours `(n, 3)` in LPS mm."""
    return structure_set(phantom, made, {number: [("CLOSED_PLANAR", c) for c in contours] for number, contours in rois.items()})


@pytest.mark.parametrize("seed", range(3))
def test_contours_fill_the_voxels_whose_centres_they_enclose(seed: int, tmp_path: Path, readers) -> None:
    phantom = random_phantom(seed)
    made = datasets(phantom)
    truth = np.zeros((phantom.columns, phantom.rows, phantom.slices), np.uint8)
    contours: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for k in range(3, 7):
        contours[1] += [outline_of(phantom, k, (2.5, 3.5), (11.5, 12.5)), outline_of(phantom, k, (5.5, 6.5), (7.5, 8.5))]
        truth[3:12, 4:13, k] = 1
        truth[6:8, 7:9, k] = 0
        contours[2].append(outline_of(phantom, k, (13.5, 3.5), (15.5, 9.5)))
        truth[14:16, 4:10, k] = 2
    save([*made, _structure_set(phantom, made, contours)], tmp_path / "s" / "case")  # type: ignore[list-item]
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"]
    assert not found.rejected
    _same(*_read_mask(found), truth, phantom)


def test_contour_between_slices_is_refused(tmp_path: Path, readers) -> None:
    phantom = random_phantom(3)
    made = datasets(phantom)
    outline = outline_of(phantom, 4, (2.5, 3.5), (9.5, 9.5)) + phantom.normal * phantom.step * 0.4
    save([*made, _structure_set(phantom, made, {1: [outline]})], tmp_path / "s" / "case")  # type: ignore[list-item]
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"]
    assert found.codes == {"mask_mismatch"}
    assert len(found.volumes) == 1
    assert not found.volumes[0][2]["label"]


def test_contours_without_their_image_are_refused(tmp_path: Path, readers) -> None:
    phantom = random_phantom(1)
    save([_structure_set(phantom, datasets(phantom), {1: [outline_of(phantom, 4, (2, 3), (9, 9))]})], tmp_path / "s" / "case")  # type: ignore[list-item]
    assert ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"].codes == {"mask_without_image"}


def test_polygon_fill_equals_the_crossing_number_of_every_centre() -> None:
    r = rng(0, "polygon")
    for _ in range(20):
        corners = r.uniform(-3, 23, (int(r.integers(3, 12)), 2))
        slow = np.zeros((20, 18), bool)
        for i in range(20):
            for j in range(18):
                crossings = 0
                for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                    if (y0 <= j) != (y1 <= j) and i >= x0 + (j - y0) / (y1 - y0) * (x1 - x0):
                        crossings += 1
                slow[i, j] = crossings % 2 == 1
        assert np.array_equal(inside_polygon(corners, (20, 18)), slow)


def _nifti_pair(folder: Path, seed: int, mask: np.ndarray | None = None, affine: np.ndarray | None = None) -> Phantom:
    phantom = random_phantom(seed)
    folder.mkdir(parents=True)
    image = nifti_image(phantom)
    nibabel.save(image, folder / "pt_1_ct.nii.gz")
    mask = _structures(phantom, seed) if mask is None else mask
    nibabel.save(nibabel.Nifti1Image(mask, image.affine if affine is None else affine), folder / "pt_1_oar.nii.gz")
    return phantom


@pytest.mark.parametrize("seed", range(3))
def test_nifti_mask_lands_on_its_image(seed: int, tmp_path: Path, readers) -> None:
    phantom = _nifti_pair(tmp_path / "s" / "case", seed)
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"]
    assert found.num_files == 2
    assert len(found.volumes) == 1
    _same(*_read_mask(found), _structures(phantom, seed), phantom)


@pytest.mark.parametrize("fault", ["shape", "shift", "values", "negative"])
def test_mask_that_does_not_fit_is_refused_with_the_numbers(fault: str, tmp_path: Path, readers) -> None:
    phantom = random_phantom(4)
    mask = _structures(phantom, 4)
    affine = nifti_image(phantom).affine.copy()
    if fault == "shape":
        mask = mask[:-1]
    elif fault == "shift":
        affine[:3, 3] += 0.2
    elif fault == "values":
        mask = mask.astype(np.float32) * 0.37
    else:
        mask = -mask.astype(np.int16)
    _nifti_pair(tmp_path / "s" / "case", 4, mask, affine)
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"]
    assert found.codes == {"mask_mismatch" if fault in ("shape", "shift") else "mask_values"}
    assert len(found.volumes) == 1
    assert not found.volumes[0][2]["label"]
    assert any(c.isdigit() for c in found.rejected[0]["sentence"])


def test_mask_of_a_sheared_image_is_straightened_with_it(tmp_path: Path, readers) -> None:
    from phantoms import tilted

    phantom = tilted(replace(random_phantom(0), orientation=(1.0, 0, 0, 0, 1.0, 0)), 12.0)
    folder = tmp_path / "s" / "case"
    folder.mkdir(parents=True)
    image = nifti_image(phantom)
    nibabel.save(image, folder / "a_img.nii.gz")
    mask = (np.asarray(image.dataobj) > np.median(np.asarray(image.dataobj))).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(mask, image.affine), folder / "a_seg.nii.gz")
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"]
    values, _, row = found.volumes[0]
    straight, _ = _read_mask(found)
    assert row["resampled"] and straight.shape == values.shape
    inside = values > values.min()
    agree = (straight == (values > np.median(np.asarray(image.dataobj))))[inside].mean()
    assert agree > 0.95


def test_pairs_are_found_by_name() -> None:
    names = ["images/a_1.nii.gz", "labels/a_1.nii.gz", "pt_2_ct.nii.gz", "pt_2_oar.nii.gz"]
    names += ["imagesTr/c_001_0000.nii.gz", "labelsTr/c_001.nii.gz", "sub-1_label-2_ct.nii.gz"]
    names += ["sub-1_seg-vert_label-2_msk.nii.gz", "sub-1_seg-subreg_label-2_msk.nii.gz", "lonely_seg.nii.gz"]
    pairing = pair_masks(names)
    assert pairing.masks == {0: 1, 2: 3, 4: 5}
    assert pairing.several == {6: [7, 8]}
    assert pairing.orphans == [9]
    assert pair_masks(names, "*_seg-vert_*").masks == {6: 7}
    assert pair_masks(["x.nii", "y.nii"], given={"x.nii": "y.nii"}).masks == {0: 1}
    # a folder may be called after its images and hold their masks as well
    assert pair_masks(["ct/a.nii.gz", "ct/a_seg.nii.gz", "ct/b_ct.nii", "ct/b_mask.nii"]).masks == {0: 1, 2: 3}


def test_subjects_come_from_names() -> None:
    assert subject_of("BraTS20_Training_001_flair.nii.gz") == "BraTS20_Training_001"
    assert subject_of("deep/sub-07/anat/sub-07_ses-2_T1w.nii.gz") == "sub-07"
    assert subject_of("scan-12-b.nii", r"scan-(\d+)") == "12"


def test_labels_table_names_mask_and_subject(tmp_path: Path, readers) -> None:
    phantom = random_phantom(5)
    folder = tmp_path / "s" / "case"
    folder.mkdir(parents=True)
    nibabel.save(nifti_image(phantom), folder / "one.nii.gz")
    nibabel.save(nibabel.Nifti1Image(_structures(phantom, 5), nifti_image(phantom).affine), folder / "two.nii.gz")
    labels = Labels(mask={"case/one.nii.gz": "case/two.nii.gz"}, subject={"case/one.nii.gz": "someone"})
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers, labels=labels)["case"]
    assert len(found.volumes) == 1 and found.volumes[0][2]["label"]


def test_one_mask_for_two_images_is_a_mistake_of_the_table(tmp_path: Path) -> None:
    """It was given to the last of them without a warning."""
    (tmp_path / "t.csv").write_text("id,mask\na.nii.gz,m.nii.gz\nb.nii.gz,m.nii.gz\n")
    with pytest.raises(StudyError, match="rows 2 and 3 of the table name one mask"):
        labels_of(str(tmp_path / "t.csv"), ["a.nii.gz", "b.nii.gz", "m.nii.gz"])
