"""The one volume: what is written is read, and stored numbers become what every stage sees, bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medssl.artefacts.volumes import VOLUMES, Volume, read_volumes, write_volumes
from medssl.core.errors import CorruptArtefactError
from medssl.core.tables import write_tsv
from medssl.volume.intensity import values_of, windowed

FOLDER = Path("results/demo/2_prepare/ct")
FINITE = st.floats(-1e6, 1e6)
WINDOWS = st.lists(st.tuples(st.floats(-3000, 3000), st.floats(0.5, 3000)).map(lambda w: (w[0], w[0] + w[1])), min_size=1)


def volume(number: int = 1, **changed: Any) -> Volume:
    name = f"v-{number:012x}"
    made = Volume(
        volume_id=name,
        series_id="s-0123456789ab",
        subject_id="p-0123456789ab",
        unit="patient",
        kind="volume",
        modality="CT",
        split="train",
        array=FOLDER / "arrays" / f"{name}.npy",
        mask=None,
        shape=(4, 5, 6),
        spacing_mm=(0.7, 0.7, 5.0),
        affine=((0.7, 0.0, 0.0, -149.55955755), (0.0, 0.7, 0.0, 1e-05), (0.0, 0.0, 5.0, -360.0), (0.0, 0.0, 0.0, 1.0)),
        slope=1.0,
        intercept=-1024.0,
        low=(-1000.0,),
        high=(400.0,),
        source="ct",
    )
    return dataclasses.replace(made, **changed)


def ends(windows: list[tuple[float, float]], which: int) -> tuple[float, ...]:
    return tuple(window[which] for window in windows)


VOLUMES_MADE = st.builds(
    lambda number, windows, **changed: volume(number, low=ends(windows, 0), high=ends(windows, 1), **changed),
    st.integers(0, 16**12 - 1),
    WINDOWS,
    subject_id=st.sampled_from([None, "p-0123456789ab"]),
    split=st.sampled_from([None, "train", "val", "test"]),
    mask=st.sampled_from([None, FOLDER / "arrays" / "v-1-mask.npy"]),
    spacing_mm=st.one_of(st.none(), st.tuples(FINITE, FINITE, FINITE)),
    affine=st.one_of(st.none(), st.tuples(*[st.tuples(*[FINITE] * 4)] * 4)),
    slope=FINITE,
    intercept=FINITE,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(VOLUMES_MADE, max_size=4, unique_by=lambda v: v.volume_id))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, volumes: list[Volume]) -> None:
    folder = tmp_path_factory.mktemp("made") / "ct"
    moved = [_moved(one, folder) for one in volumes]
    write_volumes(folder / "volumes.tsv", moved)
    assert read_volumes(folder / "volumes.tsv") == sorted(moved, key=lambda v: v.volume_id)


def _moved(one: Volume, folder: Path) -> Volume:
    mask = None if one.mask is None else folder / one.mask.relative_to(FOLDER)
    return dataclasses.replace(one, array=folder / one.array.relative_to(FOLDER), mask=mask)


def test_the_bytes_are_those_that_prepare_writes(tmp_path: Path) -> None:
    one = _moved(volume(), tmp_path)
    # as text, not by the code
    expected = (
        "volume_id\tseries_id\tsubject_id\tunit\tkind\tmodality\tsplit\tarray\tmask\tshape\tspacing_mm\taffine\tslope\tintercept"
        "\twindow_low\twindow_high\n"
        "v-000000000001\ts-0123456789ab\tp-0123456789ab\tpatient\tvolume\tCT\ttrain\tarrays/v-000000000001.npy\tn/a\t[4, 5, 6]\t"
        "[0.7, 0.7, 5.0]\t[[0.7, 0.0, 0.0, -149.55955755], [0.0, 0.7, 0.0, 1e-05], [0.0, 0.0, 5.0, -360.0], "
        "[0.0, 0.0, 0.0, 1.0]]\t1.0\t-1024.0\t[-1000.0]\t[400.0]\n"
    )
    write_volumes(tmp_path / "volumes.tsv", [one])
    assert (tmp_path / "volumes.tsv").read_text() == expected
    VOLUMES.write(tmp_path / "again.tsv", VOLUMES.read(tmp_path / "volumes.tsv"))
    assert (tmp_path / "again.tsv").read_text() == expected


def test_paths_are_joined_to_the_table_and_stay_as_relative_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_volumes(FOLDER / "volumes.tsv", [volume()])
    assert read_volumes(FOLDER / "volumes.tsv")[0].array == FOLDER / "arrays" / "v-000000000001.npy"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"window_low": [400.0]}, "one low end below its high end"),
        ({"window_low": [-1.0, 0.0]}, "one low end below its high end"),
        ({"window_low": []}, "one low end below its high end"),
        ({"shape": [4, 5]}, "column 'shape'.*expected list of 3 int"),
        ({"shape": [4, 5, 6.5]}, "column 'shape'.*expected list of 3 int"),
        ({"affine": [[1.0]]}, "column 'affine'.*expected list of 4 × 4 float or missing"),
        ({"spacing_mm": "1"}, "column 'spacing_mm'"),
        ({"volume_id": "V 1"}, "column 'volume_id': got 'V 1'"),
        ({"volume_id": None}, "column 'volume_id': got 1 missing"),
        ({"array": "../secret.npy"}, "column 'array'"),
        ({"array": "/secret.npy"}, "column 'array'"),
        ({"modality": "US"}, "got 'US'; expected one of CT, MR, PT, OT"),
        ({"slope": "steep"}, "column 'slope': got the cell 'steep'; expected float64"),
        ({"kind": True}, "column 'kind'"),
    ],
)
def test_a_bad_table_is_refused_with_column_and_reason(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    write_volumes(tmp_path / "volumes.tsv", [_moved(volume(), tmp_path)])
    frame = VOLUMES.read(tmp_path / "volumes.tsv")
    for name, value in change.items():
        frame[name] = frame[name].astype(object)
        frame.at[0, name] = value
    write_tsv(tmp_path / "bad.tsv", frame)
    with pytest.raises(CorruptArtefactError, match=sentence) as caught:
        read_volumes(tmp_path / "bad.tsv")
    assert "bad.tsv" in str(caught.value) and "run the same command again" in str(caught.value)


STORED = arrays(np.int16, (2, 3, 4))
SLOPES = st.sampled_from([1.0, 0.0625, -2.5, 0.1])


@settings(max_examples=100, deadline=None)
@given(STORED, SLOPES, st.floats(-2000, 2000), WINDOWS)
def test_values_seen_are_those_of_every_stage_before(
    stored: np.ndarray, slope: float, intercept: float, windows: list[tuple[float, float]]
) -> None:
    low, high = (tuple(end) for end in zip(*windows, strict=True))
    one = volume(slope=slope, intercept=intercept, low=low, high=high)
    # reduce/windows.py, float64
    value = stored.astype(np.float64) * slope + intercept
    np.testing.assert_array_equal(
        one.seen_first(stored, np.float64), np.clip((value - low[0]) / (high[0] - low[0]), 0.0, 1.0), strict=True
    )
    # finetune/scans.py, float32
    value = np.asarray(stored, dtype=np.float32) * np.float32(slope) + np.float32(intercept)
    seen = np.stack([np.clip((value - a) / (b - a), 0, 1) for a, b in windows]).astype(np.float32)
    np.testing.assert_array_equal(one.seen(stored), seen, strict=True)
    # report/run.py and report/pictures.py, float32
    plane = np.asarray(stored, dtype=np.float32) * slope + intercept
    np.testing.assert_array_equal(
        one.seen_first(stored), np.clip((np.asarray(plane, np.float32) - low[0]) / max(high[0] - low[0], 1e-6), 0, 1), strict=True
    )


@settings(max_examples=100, deadline=None)
@given(STORED, SLOPES, st.floats(-2000, 2000), WINDOWS)
def test_tensors_are_windowed_as_the_loader_did(
    stored: np.ndarray, slope: float, intercept: float, windows: list[tuple[float, float]]
) -> None:
    batch = torch.from_numpy(stored)[:, None]
    slopes, intercepts = torch.full((2, 1, 1, 1), slope), torch.full((2, 1, 1, 1), intercept)
    low, high = (torch.tensor([end] * 2, dtype=torch.float32)[:, :, None, None] for end in zip(*windows, strict=True))
    values = values_of(batch.float(), slopes, intercepts)
    assert torch.equal(values, batch.float() * slopes + intercepts)
    assert torch.equal(windowed(values, low, high), ((values - low) / (high - low)).clamp_(0, 1))


def test_the_ends_of_a_window_are_zero_and_one_and_its_middle_a_half() -> None:
    one = volume(slope=2.0, intercept=-1024.0, low=(-1000.0, 0.0), high=(1000.0, 500.0))
    stored = np.array([12, 512, 762, 1012, 32767], np.int16)  # -1000, 0, 500, 1000 and 64,510 HU
    np.testing.assert_array_equal(one.values(stored), [-1000, 0, 500, 1000, 64510])
    np.testing.assert_array_equal(one.seen(stored), [[0, 0.5, 0.75, 1, 1], [0, 0, 1, 1, 1]])
    assert one.seen(stored).dtype == np.float32
