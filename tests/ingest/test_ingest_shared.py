"""Real series: equal to their reference volumes, or refused with the code that names what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from ingesting import Ingested, ingest

pytestmark = pytest.mark.shared

FIELD = {
    "dcm_qa_ct/In/GE": {"uneven"},
    "dcm_qa_ct/In/Philips_S21570_S2010": 1,
    "dcm_qa_nih/In/20180918GE/mr_0004": 10,
    "dcm_qa_nih/In/20180918GE/mr_0005": 10,
    "dcm_qa_nih/In/20180918GE/mr_0006": 10,
    "dcm_qa_nih/In/20180918GE/mr_0007": 10,
    "dcm_qa_nih/In/20180918Si/mr_0003": 2,
    "dcm_qa_nih/In/20180918Si/mr_0004": 2,
    "dcm_qa_nih/In/20180918Si/mr_0005": 2,
    "dcm_qa_nih/In/20180918Si/mr_0006": 2,
    "dicom2nifti/failing/gantrytilting/001": 1,
    "dicom2nifti/failing/notavolume/001": {"not_a_volume"},
    "dicom2nifti/failing/slicecount/001": {"few_slices"},
    "dicom2nifti/failing/sliceincrement/001": {"missing_slice"},
    "dicom2nifti/failing/sliceincrement/002": {"missing_slice"},
    "dicom2nifti/failing/sliceorientation/001": {"mixed_orientation", "mixed_spacing"},
    "dicom2nifti/generic/anatomical/001": 1,
    "dicom2nifti/generic/anatomical/001_implicit": 1,
    "dicom2nifti/generic/anatomical/002_non_isotropic": 1,
    "dicom2nifti/generic/compressed/001": 1,
    "dicom2nifti/generic/compressed_j2k/001": 1,
    "dicom2nifti/generic/compressed_jpeg/001": 1,
    "dicom2nifti/generic/compressed_jpegls/001": 1,
    "dicom2nifti/generic/compressed_rle/001": 1,
    "dicom2nifti/generic/rgb/001": {"secondary_capture"},
    "dicom2nifti/hitachi/anatomical/001": 1,
    "dicom2nifti/hyperfine/anatomical/001": 1,
    "dicom2nifti/siemens_multiframe/anatomical/001": 1,
    "lung_ct_dx": 2,
}
"""Folder → number of volumes, or the codes it may be refused with."""


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory, readers) -> dict[str, Ingested]:
    made = {}
    for folder in FIELD:
        scratch = tmp_path_factory.mktemp("real")
        made[folder] = ingest(shared / "dicom" / folder, scratch, readers=readers, depth=0)[""]
    return made


@pytest.mark.parametrize("folder", FIELD)
def test_each_folder_gives_its_volumes_or_its_code(folder: str, real: dict[str, Ingested], shared: Path) -> None:
    found, wanted = real[folder], FIELD[folder]
    if isinstance(wanted, int):
        assert len(found.volumes) == wanted, found.rejected
        assert found.codes <= {"not_an_image", "dicomdir"}
    else:
        assert not found.volumes
        assert found.codes & wanted, found.codes
    assert found.num_files == sum(p.is_file() for p in (shared / "dicom" / folder).rglob("*"))


REFERENCES = {
    "20180918GE/mr_0004": "DCM2NIIX_regression_test_4",
    "20180918GE/mr_0005": "DCM2NIIX_regression_test_5",
    "20180918GE/mr_0006": "DCM2NIIX_regression_test_6",
    "20180918GE/mr_0007": "DCM2NIIX_regression_test_7",
    "20180918Si/mr_0003": "EPI_PE=AP_3",
    "20180918Si/mr_0004": "EPI_PE=PA_4",
    "20180918Si/mr_0005": "EPI_PE=RL_5",
    "20180918Si/mr_0006": "EPI_PE=LR_6",
}


@pytest.mark.parametrize("folder", REFERENCES)
def test_functional_series_and_mosaics_equal_the_reference_niftis(folder: str, real: dict[str, Ingested], shared: Path) -> None:
    reference = nibabel.load(shared / "dicom/dcm_qa_nih/Ref" / f"{REFERENCES[folder]}.nii")
    canonical = nibabel.as_closest_canonical(reference)
    volumes = sorted(real[f"dcm_qa_nih/In/{folder}"].volumes, key=lambda v: v[2]["time_index"])
    for _, affine, _ in volumes:
        assert np.abs(affine - canonical.affine).max() < 1e-3
    assert np.array_equal(np.stack([values for values, _, _ in volumes], axis=3), np.asanyarray(canonical.dataobj))


GROUND_TRUTH = [f for f in FIELD if f.startswith("dicom2nifti") and FIELD[f] == 1 and "failing" not in f]


@pytest.mark.parametrize("folder", GROUND_TRUTH)
def test_generic_cases_equal_the_expected_niftis(folder: str, real: dict[str, Ingested], shared: Path) -> None:
    path = shared / "dicom" / f"{folder}_ground_truth.nii.gz"
    canonical = nibabel.as_closest_canonical(nibabel.load(path))
    values, affine, _ = real[folder].volumes[0]
    assert values.shape == canonical.shape
    assert np.abs(affine - canonical.affine).max() < 1e-2
    assert np.allclose(values, canonical.get_fdata(), rtol=1e-5, atol=1e-3)


def test_compressed_copies_are_equal_voxel_by_voxel(real: dict[str, Ingested]) -> None:
    names = ["compressed", "compressed_j2k", "compressed_jpeg", "compressed_jpegls", "compressed_rle"]
    hashes = {real[f"dicom2nifti/generic/{name}/001"].volumes[0][2]["content_sha256"] for name in names}
    assert len(hashes) == 1


def test_tilted_and_uneven_series_becomes_one_straight_volume(shared: Path, tmp_path: Path, readers) -> None:
    """Voxels against an interpolation that knows nothing of ours: scipy on each source slice, then along the normal."""
    import pydicom
    from scipy.ndimage import map_coordinates

    folder = shared / "dicom/dcm_qa_ct/In/GE"
    found = ingest(folder, tmp_path, options={"tilt": "resample", "uneven": "resample"}, readers=readers, depth=0)[""]
    assert len(found.volumes) == 1
    values, affine, row = found.volumes[0]
    assert row["resampled"] and abs(row["tilt_deg"] - 18.5) < 0.1
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    assert np.abs(columns.T @ columns - np.eye(3)).max() < 1e-6

    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    orientation = np.array(slices[0].ImageOrientationPatient, float)
    rows_run, columns_run = orientation[:3], orientation[3:]
    normal = np.cross(rows_run, columns_run)
    slices.sort(key=lambda ds: float(np.array(ds.ImagePositionPatient, float) @ normal))
    positions = np.array([ds.ImagePositionPatient for ds in slices], float)
    depths = positions @ normal
    spacing = np.array(slices[0].PixelSpacing, float)
    images = []
    for ds in slices:
        stored = ds.pixel_array.astype(float)
        hu = stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        images.append(np.where(stored == int(ds.PixelPaddingValue), -1024.0, hu))

    rng = np.random.default_rng(0)
    index = np.stack([rng.integers(0, n, 20000) for n in values.shape], axis=1)
    points = (index @ affine[:3, :3].T + affine[:3, 3]) * [-1, -1, 1]
    depth = points @ normal
    upper = np.clip(np.searchsorted(depths, depth - 1e-3), 1, len(depths) - 1)
    weight = np.clip((depth - depths[upper - 1]) / (depths[upper] - depths[upper - 1]), 0, 1)
    expected = np.zeros(len(points))
    known = (depth > depths[0] - 1e-3) & (depth < depths[-1] + 1e-3)
    for side, share in ((upper - 1, 1 - weight), (upper, weight)):
        for n in np.unique(side):
            chosen = side == n
            along = points[chosen] - positions[n]
            at = np.stack([along @ columns_run / spacing[0], along @ rows_run / spacing[1]])
            needed = share[chosen] > 1e-3
            sampled = map_coordinates(images[n], at, order=1, mode="constant", cval=np.nan)
            inside = ((at >= 1e-3) & (at <= np.array(images[n].shape)[:, None] - 1 - 1e-3)).all(axis=0)
            expected[chosen] += np.where(needed, share[chosen] * sampled, 0)
            known[np.flatnonzero(chosen)[needed & ~inside]] = False
    error = np.abs(values[tuple(index[known].T)] - expected[known])
    assert known.mean() > 0.7
    # positions are written to 1e-4 mm, intensities change by up to 2,000 HU over a voxel at the skull
    assert np.percentile(error, 99) < 1.0
    assert error.max() < 15.0


def test_tilt_may_be_refused(shared: Path, tmp_path: Path, readers) -> None:
    folder = shared / "dicom/dicom2nifti/failing/gantrytilting/001"
    found = ingest(folder, tmp_path, options={"tilt": "refuse"}, readers=readers, depth=0)[""]
    assert found.codes == {"tilted"}


def test_two_slices_are_volumes_where_the_study_allows(shared: Path, tmp_path: Path, readers) -> None:
    folder = shared / "dicom/dicom2nifti/failing/sliceorientation/001"
    assert len(ingest(folder, tmp_path, options={"min_slices": 2}, readers=readers, depth=0)[""].volumes) == 2
