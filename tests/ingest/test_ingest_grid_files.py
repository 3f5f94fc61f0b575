"""NRRD and MetaImage: read voxel for voxel and corner for corner as SimpleITK reads them, and nothing but their own files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults import nifti_image
from grid_files import SPACES, metaimage_keys, nrrd_fields, write_metaimage, write_nrrd
from ingesting import KEY, ingest
from phantoms import largest_error, random_phantom
from simpleitk_peer import SimpleITKPeer, simpleitk

from medssl.core.listing import key_of, walk
from medssl.core.rng import rng
from medssl.ingest.file_grid import plain_name
from medssl.ingest.inventory import Labels, headers, inventory
from medssl.ingest.metaimage import read_metaimage_header
from medssl.ingest.nrrd import read_nrrd_header
from medssl.ingest.options import IngestOptions
from medssl.ingest.refusal import Refusal
from medssl.volume.geometry import LPS_TO_RAS, closest_canonical, corner_distance_mm, reoriented_affine


def _turned(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and affine of a phantom whose voxel axes are permuted and flipped."""
    image = nifti_image(random_phantom(seed))
    values, affine = np.asarray(image.dataobj), image.affine
    axes = tuple(int(n) for n in rng(seed, "axes").permutation(3))
    values, turn = values.transpose(axes), np.eye(4)[:, [*axes, 3]]
    for axis in range(3):
        if rng(seed, "flip", axis).integers(2):
            flip = np.eye(4)
            flip[axis, axis], flip[axis, 3] = -1, values.shape[axis] - 1
            values, turn = np.flip(values, axis), turn @ flip
    return np.asfortranarray(values), affine @ turn


@pytest.fixture(scope="module")
def sitk() -> Iterator[SimpleITKPeer]:
    try:
        with simpleitk() as peer:
            yield peer
    except ModuleNotFoundError:
        pytest.skip("SimpleITK is not installed beside the environment: `make test` does it")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("suffix", ["nrrd", "nhdr", "mha", "mhd"])
def test_a_file_of_simpleitk_is_read_as_simpleitk_reads_it(suffix: str, seed: int, tmp_path: Path, readers, sitk) -> None:
    values, affine = _turned(seed)
    values = values.astype(
        [np.int16, np.float32, np.uint16, np.int32, np.float64, np.int16][seed] if values.min() > 0 else np.int16
    )
    (tmp_path / "s" / "a").mkdir(parents=True)
    path = tmp_path / "s" / "a" / f"sub-1_img.{suffix}"
    sitk.write(path, values, LPS_TO_RAS @ affine, compressed=seed % 2 == 1)
    _as_simpleitk(path, tmp_path, readers, sitk)


@pytest.mark.parametrize("seed", range(6))
def test_our_own_files_are_read_by_simpleitk_too(seed: int, tmp_path: Path, readers, sitk) -> None:
    """The writer of the tests is judged by a peer: their truth does not rest on our reading of the formats."""
    values, affine = _turned(seed)
    path = tmp_path / "s" / "a" / ("sub-1_img.nrrd" if seed % 2 else "sub-1_img.mha")
    if seed % 2:
        write_nrrd(path, values, nrrd_fields(values, affine, space=list(SPACES)[seed]))
    else:
        write_metaimage(path, values, metaimage_keys(values, affine))
    _as_simpleitk(path, tmp_path, readers, sitk)


def _as_simpleitk(path: Path, tmp_path: Path, readers, sitk: SimpleITKPeer) -> None:
    array, affine = sitk.read(path)
    turn = closest_canonical(LPS_TO_RAS @ affine)
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["a"]
    ((values, ours, row),) = found.volumes
    np.testing.assert_array_equal(values, turn.apply(array))
    assert corner_distance_mm(ours, reoriented_affine(LPS_TO_RAS @ affine, turn, array.shape), values.shape) < 1e-3
    assert row["num_files"] == len(list(path.parent.iterdir()))


def test_nothing_of_a_header_is_kept_that_is_not_asked_for(tmp_path: Path, readers) -> None:
    image = nifti_image(random_phantom(1))
    values = np.asarray(image.dataobj)
    write_nrrd(tmp_path / "a.nrrd", values, nrrd_fields(values, image.affine) | {"content": "Doe^Jane"}, comment="Doe^Jane")
    write_metaimage(tmp_path / "b.mha", values, metaimage_keys(values, image.affine) | {"PatientName": "Doe^Jane"})
    rows = headers(walk("s", str(tmp_path)), tmp_path, readers, no_space="refuse")
    assert [row["format"] for row in rows] == ["nrrd", "metaimage"]
    assert "Doe" not in json.dumps(rows)


@pytest.mark.parametrize(
    "name", ["../a.raw", "/etc/passwd", "sub/a.raw", "..\\a.raw", "C:\\a.raw", "..", ".", "", "a\0b", "x" * 300]
)
def test_a_header_names_a_file_beside_it_or_none(name: str) -> None:
    with pytest.raises(Refusal) as error:
        plain_name(name)
    assert error.value.code == "missing_data"


def test_a_data_file_without_its_header_is_not_an_image(tmp_path: Path, readers) -> None:
    """Also where an earlier scan knew the file as the data of a header."""
    image = nifti_image(random_phantom(1))
    values = np.asarray(image.dataobj)
    write_metaimage(tmp_path / "s" / "b.mhd", values, metaimage_keys(values, image.affine), data=tmp_path / "s" / "b.raw")

    def scan(known: dict) -> list[dict]:
        return inventory(
            walk("s", str(tmp_path / "s")),
            tmp_path / "s",
            key_of("s", KEY),
            readers,
            options=IngestOptions(),
            labels=Labels(),
            known=known,
        )

    first = scan({})
    assert {row["role"] for row in first} == {"image", "data"} and len({row["group"] for row in first}) == 1
    known = {(row["name"], row["size"], row["mtime_ns"]): row for row in first}
    assert scan(known) == first
    (tmp_path / "s" / "b.mhd").unlink()
    assert [row["code"] for row in scan(known)] == ["not_an_image"]


def test_an_npz_of_volumes_says_that_it_states_no_voxel_size(tmp_path: Path, readers) -> None:
    """MedMNIST3D: `train_images` of shape (n, 28, 28, 28)."""
    (tmp_path / "s" / "a").mkdir(parents=True)
    arrays = {"train_images": np.zeros((4, 28, 28, 28), np.uint8), "train_labels": np.zeros((4, 1), np.uint8)}
    np.savez(tmp_path / "s" / "a" / "organmnist3d.npz", **arrays)
    (row,) = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["a"].rejected
    assert row["code"] == "volume_set" and "4 of 28×28×28 voxels" in row["sentence"]


def test_pixdim_takes_the_voxel_sizes_alone(tmp_path: Path, readers) -> None:
    phantom = random_phantom(1)
    image = nifti_image(phantom)
    values = np.asarray(image.dataobj)
    fields = nrrd_fields(values, image.affine)
    del fields["space origin"]
    keys = metaimage_keys(values, image.affine)
    del keys["TransformMatrix"]
    write_nrrd(tmp_path / "s" / "a" / "a_img.nrrd", values, fields)
    write_metaimage(tmp_path / "s" / "b" / "b_img.mha", values, keys)
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers, options={"no_space": "pixdim"})
    for name in "ab":
        ((_, affine, _),) = found[name].volumes
        assert np.allclose(np.diag(affine)[:3], [phantom.spacing[1], phantom.spacing[0], phantom.step], atol=1e-6)


def test_fuzzed_headers_are_refused_or_read_as_they_were(tmp_path: Path, count: int) -> None:
    """A byte of the header changed: a refusal, or a header whose grid is of this file's size."""
    image = nifti_image(random_phantom(3))
    values = np.asarray(image.dataobj)
    write_nrrd(tmp_path / "a.nrrd", values, nrrd_fields(values, image.affine))
    write_metaimage(tmp_path / "b.mha", values, metaimage_keys(values, image.affine))
    for path, read in ((tmp_path / "a.nrrd", read_nrrd_header), (tmp_path / "b.mha", read_metaimage_header)):
        whole = path.read_bytes()
        for seed in range(200 * count):
            r = rng(seed, path.name)
            data = bytearray(whole)
            for _ in range(int(r.integers(1, 4))):
                data[int(r.integers(0, len(whole) - values.nbytes))] = int(r.integers(0, 256))
            try:
                header = read(bytes(data))
            except Refusal:
                continue
            assert header["bytes"] <= len(data) or header["packed"] or header["data_file"]
            assert np.isfinite(header["affine"]).all()


def test_largest_error_of_a_clean_file_is_rounding(tmp_path: Path, readers) -> None:
    phantom = random_phantom(5)
    image = nifti_image(phantom)
    values = np.asarray(image.dataobj)
    write_nrrd(tmp_path / "s" / "a" / "a_ct.nrrd", values, nrrd_fields(values, image.affine))
    ((found, affine, row),) = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["a"].volumes
    assert largest_error(found, affine, phantom) <= 0.51
    assert (row["format"], row["modality"], row["dtype"]) == ("nrrd", "CT", "int16")
