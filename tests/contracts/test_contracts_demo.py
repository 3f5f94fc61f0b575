"""From the bundled files to what the network sees: ingest and prepare together keep every value and every place."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from medssl.core.files import read_json
from medssl.core.tables import read_parquet, read_tsv
from medssl.volume.cache import open_array, read_plane

DEMO = Path(__file__).resolve().parents[2] / "demo"


@pytest.mark.parametrize("patient", ["demo1", "demo2"])
def test_every_voxel_of_the_ct_is_where_the_scanner_put_it(demo_study, patient):
    slices = [pydicom.dcmread(path) for path in (DEMO / "ct" / patient).glob("*.dcm")]
    volumes = read_tsv(demo_study / "2_prepare" / "ct" / "volumes.tsv")
    (row,) = [r for r in volumes.itertuples() if json.loads(r.shape)[2] == len(slices)]
    array = open_array(demo_study / "2_prepare" / "ct" / row.array)
    to_voxel = np.linalg.inv(json.loads(row.affine))
    columns, rows = np.meshgrid(np.arange(256), np.arange(256))
    for dataset in slices:
        x, y, z = (float(n) for n in dataset.ImagePositionPatient)
        step_y, step_x = (float(n) for n in dataset.PixelSpacing)
        ras = np.stack([-(x + columns * step_x), -(y + rows * step_y), np.full(rows.shape, z), np.ones(rows.shape)])
        voxel = np.tensordot(to_voxel, ras, 1)[:3]
        i, j, k = np.rint(voxel).astype(int)
        np.testing.assert_allclose(voxel, [i, j, k], atol=1e-3)
        got_hu = array[i, j, k] * row.slope + row.intercept
        expected_hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        np.testing.assert_array_equal(got_hu, expected_hu)


def test_two_patients_all_train_and_the_arrays_are_links(demo_study):
    summary = read_json(demo_study / "2_prepare" / "ct" / "fingerprint.json")
    assert summary["units"] == {"patient": 2}
    assert summary["splits"]["train"]["samples"] == 48 + 61
    assert summary["cache"]["linked"] == summary["cache"]["files"] == 2


def test_resampled_spine_keeps_places_and_masks(demo_study):
    folder = demo_study / "2_prepare" / "spine"
    for row in read_tsv(folder / "volumes.tsv").itertuples():
        name = {"CT": "sub-spinect_ct", "MR": "sub-spinemr_T2w"}[row.modality]
        source = nibabel.load(DEMO / "spine" / f"{name}.nii.gz")
        source_mask = nibabel.load(DEMO / "spine" / f"{name.split('_')[0]}_mask.nii.gz")
        values = np.asarray(open_array(folder / row.array)) * row.slope + row.intercept
        mask = np.asarray(open_array(folder / row.mask))
        affine = np.array(json.loads(row.affine))
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [2, 2, 3])
        assert set(np.unique(mask)) <= set(np.unique(source_mask.dataobj))
        # the centres of mass of the mask and of the brightness lie where they lay
        before, before_mask = (np.asanyarray(image.dataobj).astype(float) for image in (source, source_mask))
        np.testing.assert_allclose(centre(mask > 0, affine), centre(before_mask > 0, source.affine), atol=0.6)
        darkest = before.min()
        np.testing.assert_allclose(centre(values - darkest, affine), centre(before - darkest, source.affine), atol=0.1)


def centre(weights: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Centre of mass in world millimetres."""
    from scipy.ndimage import center_of_mass

    return affine[:3, :3] @ np.array(center_of_mass(np.asarray(weights, dtype=float))) + affine[:3, 3]


def test_organ_images_keep_their_parts_labels_and_pixels(demo_study):
    folder = demo_study / "2_prepare" / "organs"
    samples = read_parquet(folder / "samples.parquet")
    assert samples["split"].value_counts().to_dict() == {"train": 1320, "val": 330, "test": 550}
    array = open_array(folder / samples["array"].iloc[0])
    with np.load(DEMO / "organs" / "organamnist_2200.npz", allow_pickle=False) as file:
        for part in ("train", "val", "test"):
            mine = samples[samples["split"] == part]
            labels = sorted(zip((read_plane(array, 2, n).tobytes("F") for n in mine["index"]), mine["label"], strict=True))
            images, truth = file[f"{part}_images"], file[f"{part}_labels"][:, 0]
            assert labels == sorted((image.tobytes(), str(label)) for image, label in zip(images, truth, strict=True))


def test_no_path_of_the_sources_is_in_any_result(demo_study):
    for path in demo_study.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".tsv", ".log", ".parquet"):
            assert str(DEMO).encode() not in path.read_bytes(), path
            assert b"sub-spine" not in path.read_bytes(), path
