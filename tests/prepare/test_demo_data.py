"""The bundled images are what demo/README.md says they are."""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

DEMO = Path(__file__).resolve().parents[2] / "demo"
README = (DEMO / "README.md").read_text(encoding="utf-8")


def stated(patient: str) -> dict[str, str]:
    """The row of the README's table for a patient."""
    lines = README.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| patient"))
    header = [cell.strip() for cell in lines[start].strip("|").split("|")]
    row = next(line for line in lines[start:] if line.startswith(f"| {patient} "))
    return dict(zip(header, [cell.strip() for cell in row.strip("|").split("|")], strict=True))


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-"))]


@pytest.fixture(scope="module", params=["DEMO1", "DEMO2"])
def series(request: pytest.FixtureRequest) -> tuple[dict[str, str], list[pydicom.Dataset]]:
    datasets = [pydicom.dcmread(path) for path in (DEMO / "ct" / request.param.lower()).glob("*.dcm")]
    return stated(request.param), sorted(datasets, key=lambda d: float(d.ImagePositionPatient[2]))


def test_geometry_is_the_stated_one(series):
    row, slices = series
    assert len(slices) == int(row["files"])
    assert {d.PatientID for d in slices} == {row["patient"]}
    assert {d.file_meta.TransferSyntaxUID.name.split(" Image")[0] for d in slices} == {row["transfer syntax"]}
    assert list(slices[0].ImagePositionPatient) == numbers(row["first voxel, LPS mm"])
    assert list(slices[-1].ImagePositionPatient) == numbers(row["last slice, LPS mm"])
    row_mm, column_mm, step_mm = numbers(row["spacing mm"])
    heights_mm = np.array([d.ImagePositionPatient[2] for d in slices], float)
    np.testing.assert_array_equal(np.diff(heights_mm), step_mm)
    for d in slices:
        assert list(d.PixelSpacing) == [row_mm, column_mm]
        assert list(d.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
        assert float(d.SliceThickness) == step_mm


def test_values_are_the_stated_hu_without_loss(series):
    row, slices = series
    volume_hu = np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices])
    assert [volume_hu.min(), volume_hu.max()] == numbers(row["HU"].replace("…", " "))
    stored = volume_hu.astype("<i2")
    np.testing.assert_array_equal(stored, volume_hu)
    assert hashlib.sha256(stored.tobytes()).hexdigest() == row["sha256 of the HU values"].strip("`")


def test_both_decoders_agree_on_the_compressed_series():
    import imagecodecs

    for path in sorted((DEMO / "ct" / "demo2").glob("*.dcm"))[::15]:
        dataset = pydicom.dcmread(path)
        code = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
        np.testing.assert_array_equal(dataset.pixel_array, imagecodecs.jpegls_decode(code))


def test_identity_is_unique_and_minted(series):
    _, slices = series
    assert len({d.SOPInstanceUID for d in slices}) == len(slices)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({d[name].value for d in slices}) == 1
    for d in slices:
        assert all(e.value.startswith("2.25.") for e in d if e.VR == "UI" and e.keyword != "SOPClassUID")
        assert not any(e.value for e in d if e.VR in ("DA", "TM", "DT"))
        assert not any(e.tag.is_private for e in d)


def test_lesion_masks_lie_on_the_grid_of_their_ct(series):
    row, slices = series
    first = slices[0]
    mask = nibabel.load(DEMO / "ct_masks" / f"{row['patient'].lower()}_lesion.nii.gz")
    assert mask.shape == (first.Columns, first.Rows, len(slices))
    assert set(np.unique(mask.dataobj)) == {0, 1}
    for k in (0, len(slices) - 1):
        x, y, z = (float(n) for n in slices[k].ImagePositionPatient)
        np.testing.assert_allclose(mask.affine @ [0, 0, k, 1], [-x, -y, z, 1], atol=1e-4)
    # tissue lies under the mask, and lung on the other side of the body
    inside = np.asanyarray(mask.dataobj).astype(bool)
    volume_hu = np.stack([d.pixel_array.T + float(d.RescaleIntercept) for d in slices], axis=-1)
    assert volume_hu[inside].mean() > -300
    assert volume_hu[np.flip(inside, 0)].mean() < -500


def test_every_spine_image_has_its_mask_on_its_grid():
    images = [p for p in (DEMO / "spine").rglob("*.nii.gz") if "mask" not in p.name]
    assert len(images) == 2
    for path in images:
        image, subject = nibabel.load(path), path.name.split("_")[0]
        for other in (path.parent / f"{subject}_mask.nii.gz", DEMO / "spine_vertebrae" / f"{subject}_vertebrae.nii.gz"):
            mask = nibabel.load(other)
            assert mask.shape == image.shape
            np.testing.assert_allclose(mask.affine, image.affine)
            assert len(np.unique(mask.dataobj)) > 3


def test_organ_images_are_the_stated_counts_of_each_class():
    with np.load(DEMO / "organs" / "organamnist_2200.npz", allow_pickle=False) as file:
        for part, each in {"train": 120, "val": 30, "test": 50}.items():
            assert file[f"{part}_images"].shape == (11 * each, 28, 28)
            labels, counts = np.unique(file[f"{part}_labels"], return_counts=True)
            assert labels.tolist() == list(range(11))
            assert (counts == each).all()


def test_folder_stays_below_15_mb():
    assert sum(p.stat().st_size for p in DEMO.rglob("*") if p.is_file()) < 15e6


@pytest.mark.shared
def test_build_gives_the_same_bytes_again(shared, tmp_path):
    subprocess.run([sys.executable, DEMO / "build.py", shared / "demo_sources", "--into", tmp_path], check=True)
    rebuilt = {p.relative_to(tmp_path): p for p in tmp_path.rglob("*") if p.is_file()}
    assert len(rebuilt) == 48 + 61 + 2 + 4 + 2 + 1
    for name, path in rebuilt.items():
        assert path.read_bytes() == (DEMO / name).read_bytes(), name


@pytest.mark.shared
def test_lossless_against_the_source(shared):
    nrrd = (shared / "demo_sources" / "pyradiomics" / "lung2_image.nrrd").read_bytes()
    data = nrrd.partition(b"\n\n")[2]
    source_hu = np.frombuffer(gzip.decompress(data), "<i2").reshape(61, 512, 512)
    mean_hu = source_hu.reshape(61, 256, 2, 256, 2).mean(axis=(2, 4))
    slices = sorted(
        (pydicom.dcmread(p) for p in (DEMO / "ct" / "demo2").glob("*.dcm")), key=lambda d: float(d.ImagePositionPatient[2])
    )
    got_hu = np.stack([d.pixel_array + float(d.RescaleIntercept) for d in slices])
    assert np.abs(got_hu - mean_hu).max() <= 0.5
