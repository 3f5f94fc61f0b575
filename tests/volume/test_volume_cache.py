"""Laws of the array cache: both forms give the same planes and patches, and read no more than they must."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.core.errors import CorruptArtefactError
from medssl.volume.cache import SUFFIX, open_array, read_patch, read_plane, runs, write_array


@pytest.fixture(params=[np.int16, np.uint8, np.uint16])
def volume(request) -> np.ndarray:
    info = np.iinfo(request.param)
    return np.random.default_rng(0).integers(info.min, info.max, (70, 65, 37), dtype=request.param, endpoint=True)


@pytest.mark.parametrize("form", ["memmap", "blosc2"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_and_patches_are_those_of_the_array(volume, form, axis, tmp_path):
    path = tmp_path / f"a{SUFFIX[form]}"
    write_array(path, volume, axis=axis, form=form)
    array = open_array(path)
    assert tuple(array.shape) == volume.shape
    assert np.dtype(array.dtype) == volume.dtype
    for other in range(3):
        for index in (0, volume.shape[other] // 2, volume.shape[other] - 1):
            np.testing.assert_array_equal(read_plane(array, other, index), volume.take(index, axis=other))
    draw = np.random.default_rng(1)
    for _ in range(10):
        start = [int(draw.integers(0, n)) for n in volume.shape]
        size = [int(draw.integers(1, n - a + 1)) for n, a in zip(volume.shape, start, strict=True)]
        cut = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        np.testing.assert_array_equal(read_patch(array, start, size), volume[cut])


@pytest.mark.parametrize("form", ["memmap", "blosc2"])
def test_runs_cover_the_array_once(volume, form, tmp_path, monkeypatch):
    monkeypatch.setattr("medssl.volume.cache.RUN_BYTES", 1)
    path = tmp_path / f"a{SUFFIX[form]}"
    write_array(path, volume, axis=2, form=form)
    for axis in range(3):
        found = list(runs(open_array(path), axis))
        assert len(found) > 1
        np.testing.assert_array_equal(np.concatenate([part for _, part in found], axis=axis), volume)
        assert [n for planes, _ in found for n in range(planes.start, planes.stop)] == list(range(volume.shape[axis]))


@pytest.mark.parametrize("axis", [0, 2])
def test_a_memory_mapped_plane_along_the_slice_axis_is_one_run_of_bytes_and_no_copy(volume, axis, tmp_path):
    write_array(tmp_path / "a.npy", volume, axis=axis, form="memmap")
    array = open_array(tmp_path / "a.npy")
    plane, patch = read_plane(array, axis, 5), read_patch(array, (1, 2, 3), (4, 5, 6))
    assert plane.flags.c_contiguous or plane.flags.f_contiguous
    assert np.shares_memory(plane, array)
    assert np.shares_memory(patch, array)
    assert not plane.flags.writeable


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_compressed_plane_is_blocks_of_that_plane_alone(axis, tmp_path):
    import blosc2

    volume = np.random.default_rng(0).integers(0, 2000, (160, 150, 140), dtype=np.int16)
    write_array(tmp_path / "a.b2nd", volume, axis=axis, form="blosc2")
    stored = blosc2.open(str(tmp_path / "a.b2nd"), mode="r")
    blocks = stored.blocks[::-1] if axis == 2 else stored.blocks
    assert [n == 1 for n in blocks] == [n == axis for n in range(3)]
    assert max(blocks) == 128


def test_a_compressed_array_becomes_a_whole_array(volume, tmp_path):
    write_array(tmp_path / "a.b2nd", volume, axis=2, form="blosc2")
    array = open_array(tmp_path / "a.b2nd")
    np.testing.assert_array_equal(np.asarray(array), volume)
    np.testing.assert_array_equal(array[3], volume[3])
    np.testing.assert_array_equal(array[3:5, 1], volume[3:5, 1])


def test_compressed_is_smaller_for_images_of_a_kind(tmp_path):
    i, j, k = np.meshgrid(np.arange(128), np.arange(128), np.arange(32), indexing="ij")
    volume = (1000 * np.exp(-((i - 64) ** 2 + (j - 64) ** 2 + (k - 16) ** 2) / 900)).astype(np.int16)
    for form in ("memmap", "blosc2"):
        write_array(tmp_path / f"a{SUFFIX[form]}", volume, axis=2, form=form)
    assert (tmp_path / "a.b2nd").stat().st_size * 3 < (tmp_path / "a.npy").stat().st_size


@pytest.mark.parametrize("form", ["memmap", "blosc2"])
def test_equal_arrays_give_equal_bytes(volume, form, tmp_path):
    for name in "ab":
        write_array(tmp_path / f"{name}{SUFFIX[form]}", volume, axis=2, form=form)
    assert (tmp_path / f"a{SUFFIX[form]}").read_bytes() == (tmp_path / f"b{SUFFIX[form]}").read_bytes()


@pytest.mark.parametrize("form", ["memmap", "blosc2"])
def test_outside_the_array_is_refused(volume, form, tmp_path):
    path = tmp_path / f"a{SUFFIX[form]}"
    write_array(path, volume, axis=2, form=form)
    array = open_array(path)
    for axis, index in ((2, 37), (2, -1), (0, 70)):
        with pytest.raises(IndexError, match="does not exist"):
            read_plane(array, axis, index)
    for start, size in (((0, 0, 0), (71, 1, 1)), ((-1, 0, 0), (2, 2, 2)), ((0, 0, 0), (0, 1, 1))):
        with pytest.raises(IndexError, match="leaves the array"):
            read_patch(array, start, size)


@pytest.mark.parametrize("suffix", [".npy", ".b2nd"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"no array at all" * 10])
def test_a_broken_file_is_refused_with_a_sentence(suffix, content, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(CorruptArtefactError, match="not a readable array"):
        open_array(path)


def test_a_cut_file_is_refused(volume, tmp_path):
    write_array(tmp_path / "a.npy", volume, axis=2, form="memmap")
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptArtefactError):
        open_array(tmp_path / "a.npy")


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CorruptArtefactError):
        open_array(tmp_path / "a.npy")
