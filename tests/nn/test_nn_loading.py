"""Batches hold true values, in an order that workers do not change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from prepared import write_prepared

from medssl.artefacts.volumes import read_volumes, write_volumes
from medssl.core import tables
from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.nn.loading import Batch, Reader, epoch_order, load, read_samples


def test_values_are_slope_times_stored_plus_intercept(tmp_path: Path) -> None:
    inputs = write_prepared(tmp_path)
    volumes = tables.read_tsv(inputs["volumes"][0])
    volumes["slope"], volumes["intercept"] = 2.0, -7.0
    tables.write_tsv(inputs["volumes"][0], volumes)
    samples = read_samples(inputs["samples"], inputs["volumes"])
    batch = Reader(samples)[(0, np.array([3, 11]))]
    for place, row in enumerate([3, 11]):
        array = np.load(samples.volumes[samples.volume[row]].array)
        assert np.array_equal(batch.values[place, 0].numpy(), array[:, :, samples.index[row]] * 2.0 - 7.0)
    assert samples.ids[11] == "v-000000000001-0003"


def test_beyond_a_plane_lies_the_low_end_of_its_window(tmp_path: Path) -> None:
    inputs = write_prepared(tmp_path, vary=True)
    volumes = tables.read_tsv(inputs["volumes"][0])
    volumes["slope"], volumes["intercept"] = 0.5, -24.0
    tables.write_tsv(inputs["volumes"][0], volumes)
    batch = Reader(read_samples(inputs["samples"], inputs["volumes"]))[(0, np.array([0, 20]))]
    assert batch.extent.tolist() == [[24, 20], [28, 22]]
    assert (batch.values[0, 0, 24:] == -1000).all() and (batch.values[0, 0, :, 20:] == -1000).all()


def test_workers_change_neither_order_nor_content(tmp_path: Path) -> None:
    inputs = write_prepared(tmp_path, vary=True)
    samples = read_samples(inputs["samples"], inputs["volumes"])
    requests = [(e, epoch_order(1, e, len(samples))[:6]) for e in range(4)]
    runs = [
        list(load(Reader(samples, seed=1, patch=patch), requests, workers=w)) for patch in (None, (8, 8, 4)) for w in (0, 1, 2)
    ]
    for some in (runs[:3], runs[3:]):
        for batches in zip(*some, strict=True):
            assert all(torch.equal(batches[0].values, b.values) and torch.equal(batches[0].rows, b.rows) for b in batches)


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    assert np.array_equal(epoch_order(3, 5, 100), epoch_order(3, 5, 100))
    assert not np.array_equal(epoch_order(3, 5, 100), epoch_order(3, 6, 100))
    assert sorted(epoch_order(0, 0, 100).tolist()) == list(range(100))


def test_only_kept_samples_of_the_split_come(tmp_path: Path) -> None:
    inputs = write_prepared(tmp_path)
    keep = tables.read_parquet(inputs["keep"])
    keep["keep"] = np.arange(len(keep)) % 2 == 0
    tables.write_parquet(inputs["keep"], keep)
    assert len(read_samples(inputs["samples"], inputs["volumes"], keep=inputs["keep"])) == 12
    with pytest.raises(StudyError, match="no samples are left"):
        read_samples(inputs["samples"], inputs["volumes"], split="test")


def test_sources_with_different_numbers_of_windows_are_refused(tmp_path: Path) -> None:
    a, b = write_prepared(tmp_path / "a"), write_prepared(tmp_path / "b", windows=2, seed=1)
    with pytest.raises(StudyError, match="different numbers of windows"):
        read_samples([*a["samples"], *b["samples"]], [*a["volumes"], *b["volumes"]])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_array_of_another_shape_than_its_table_is_refused(tmp_path: Path, workers: int) -> None:
    inputs = write_prepared(tmp_path)
    samples = read_samples(inputs["samples"], inputs["volumes"])
    np.save(samples.volumes[0].array, np.zeros((3, 3, 3), np.int16))
    with pytest.raises(CorruptArtefactError, match=r"^/.* its table says"):
        list(load(Reader(samples), [(0, np.array([0]))], workers=workers))


def test_large_planes_are_averaged_over_whole_blocks_while_reading(tmp_path: Path) -> None:
    inputs = write_prepared(tmp_path, shape=(24, 20, 4))
    samples = read_samples(inputs["samples"], inputs["volumes"])
    small = Reader(samples, shrink_to=10)[(0, np.array([0]))].values[0, 0]
    plane = torch.from_numpy(np.load(samples.volumes[0].array)[:, :, 0].astype(np.float32))
    assert torch.allclose(small, plane.view(12, 2, 10, 2).mean((1, 3)))
    assert Reader(samples, shrink_to=11)[(0, np.array([0]))].values.shape[2:] == (24, 20)


def test_a_patch_holds_its_slice_and_stays_inside(tmp_path: Path) -> None:
    inputs = write_prepared(tmp_path)
    samples = read_samples(inputs["samples"], inputs["volumes"])
    reader = Reader(samples, patch=(8, 40, 3))
    for epoch in range(5):
        batch = reader[(epoch, np.array([0, 4, 7]))]
        assert batch.extent.tolist() == [[8, 20, 3]] * 3
        for place, k in enumerate([0, 4, 7]):
            array = np.load(samples.volumes[0].array).astype(np.float32)
            start = min(max(k - 1, 0), 5)
            found = batch.values[place, 0].numpy()
            assert any(np.array_equal(found, array[i : i + 8, :, start : start + 3]) for i in range(17))


@pytest.mark.parametrize("stored", [torch.int16, torch.float32])
def test_windows_become_channels_between_zero_and_one(stored: torch.dtype) -> None:
    rows = torch.arange(2)
    fields = {"extent": rows, "rows": rows, "volume": rows, "axis": rows.numpy(), "keys": rows.numpy(), "epoch": 0}
    batch = Batch(
        stored=torch.tensor([[-1000, -500, 0, 500], [-2001, -1001, -1, 999]]).view(2, 1, 4).to(stored),
        slope=torch.tensor([2.0, 1.0]),
        intercept=torch.tensor([0.0, 1.0]),
        low=torch.tensor([[-1000.0, -160.0], [-1000.0, -160.0]]),
        high=torch.tensor([[1000.0, 240.0], [1000.0, 240.0]]),
        **fields,
    )
    assert torch.allclose(batch.seen, torch.tensor([[[0, 0, 0.5, 1.0], [0, 0, 0.4, 1.0]]] * 2))


def test_a_batch_is_seen_as_its_volumes_are_bit_for_bit(tmp_path: Path) -> None:
    inputs = write_prepared(tmp_path, windows=2)
    volumes = [
        dataclasses.replace(volume, slope=0.37 + number, intercept=-11.3, low=(-160.5, -1000.0), high=(240.1, 1000.0))
        for number, volume in enumerate(read_volumes(inputs["volumes"][0]))
    ]
    write_volumes(inputs["volumes"][0], volumes)
    samples = read_samples(inputs["samples"], inputs["volumes"])
    batch = Reader(samples)[(0, np.array([3, 11, 20]))]
    for place, row in enumerate([3, 11, 20]):
        volume = samples.volumes[samples.volume[row]]
        plane = np.load(volume.array)[:, :, samples.index[row]]
        assert np.array_equal(batch.seen[place].numpy(), volume.seen(plane))


def test_a_table_that_is_none_of_samples_is_refused(tmp_path: Path) -> None:
    inputs = write_prepared(tmp_path)
    table = tables.read_parquet(inputs["samples"][0])
    tables.write_parquet(inputs["samples"][0], table.drop(columns="position_mm"))
    with pytest.raises(CorruptArtefactError, match="no column 'position_mm'"):
        read_samples(inputs["samples"], inputs["volumes"])
