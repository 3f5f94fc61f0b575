"""The attributes of slices decide which of them are one volume: scans in a row, ids, and remarks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults import faults_slices
from ingesting import Ingested, ingest
from phantoms import datasets, largest_error, random_phantom, save, set_values
from pydicom.uid import generate_uid

from medssl.core.rng import rng
from medssl.ingest.dicom.attributes import ATTRIBUTES
from medssl.ingest.dicom.steps import decimals_mm, line_of, on_two_grids
from medssl.ingest.refusal import Refusal

UP = np.array([0.0, 0.0, 1.0])


def _made(name: str, seed: int, tmp_path: Path, readers, **options: object) -> Ingested:
    faults_slices.SLICE_FAULTS[name](tmp_path / "s" / "case", seed)
    return ingest(tmp_path / "s", tmp_path / "x", readers=readers, options=options)["case"]


def test_every_attribute_has_one_meaning_and_a_reason() -> None:
    assert len({a.name for a in ATTRIBUTES}) == len(ATTRIBUTES)
    assert all(
        a.why and a.rule in ("equal", "split", "contrast", "pass", "clock", "words", "index", "amount", "time")
        for a in ATTRIBUTES
    )


def test_harmless_classes_are_those_that_must_be_right(tmp_path: Path) -> None:
    sound = {name for name, fault in faults_slices.SLICE_FAULTS.items() if fault(tmp_path / name, 3).must_be_right}
    assert sound == set(faults_slices.HARMLESS)


@pytest.mark.parametrize("name", ["patients_abutting", "patients_half_a_step_apart"])
def test_each_volume_has_the_patient_of_its_own_slices(name: str, tmp_path: Path, readers) -> None:
    found = _made(name, 4, tmp_path, readers)
    assert len({row["subject_id"] for _, _, row in found.volumes}) == 2
    assert len({row["series_id"] for _, _, row in found.volumes}) == 1


@pytest.mark.parametrize("name", ["frames_of_reference_abutting", "oblique_stacks", "passes_over_one_range"])
def test_volumes_of_one_series_never_share_an_id_and_keep_it(name: str, tmp_path: Path, readers) -> None:
    found = _made(name, 5, tmp_path, readers)
    ids = {row["volume_id"] for _, _, row in found.volumes}
    assert len(ids) == len(found.volumes) >= 2
    for number, path in enumerate(sorted((tmp_path / "s" / "case").iterdir())):
        path.rename(path.with_name(f"{1000 - number}.ima"))
    again = ingest(tmp_path / "s", tmp_path / "y", readers=readers)["case"]
    assert {row["volume_id"] for _, _, row in again.volumes} == ids


def test_the_other_volume_does_not_change_an_id(tmp_path: Path, readers) -> None:
    """The id of one of three time points is its own images', whichever others are there."""
    truths = [replace(random_phantom(1, modality="MR", constant=600.0), constant=600.0 + 50 * t) for t in range(3)]
    for t, truth in enumerate(truths):
        made = datasets(truth)
        for n, ds in enumerate(made):
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["t", str(t), str(n)])
            ds.TemporalPositionIdentifier = t + 1
        save(made, tmp_path / "s" / "case", names=lambda n, t=t: f"{t}-{n}.dcm")  # type: ignore[misc]

    def ids(scratch: str) -> dict[int, str]:
        """Time point → id."""
        found = ingest(tmp_path / "s", tmp_path / scratch, readers=readers)["case"].volumes
        return {
            t: row["volume_id"] for values, affine, row in found for t in range(3) if largest_error(values, affine, truths[t]) < 1
        }

    before = ids("x")
    for path in (tmp_path / "s" / "case").glob("0-*"):
        path.unlink()
    assert ids("y") == {t: before[t] for t in (1, 2)}


def test_frames_of_reference_that_a_tool_replaced_are_reported(tmp_path: Path, readers) -> None:
    ((_, _, row),) = _made("frame_of_every_file", 4, tmp_path, readers).volumes
    assert "frame_each" in row["warnings"]


@pytest.mark.parametrize("seed", range(3))
def test_scans_are_not_mixed_by_interpolation(seed: int, tmp_path: Path, readers) -> None:
    """Two scans 0.3 steps apart, with `uneven: resample`: two volumes, each of one scan."""
    one = random_phantom(seed)
    other = replace(one, origin=tuple(np.array(one.origin) + 0.3 * one.step * one.normal), constant=160.0)
    made = datasets(one)
    for number, ds in enumerate(datasets(other)):
        ds.AcquisitionNumber = 2
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["b", str(seed), str(number)])
        made.append(ds)
    save(made, tmp_path / "s" / "case")
    found = ingest(tmp_path / "s", tmp_path / "x", options={"uneven": "resample"}, readers=readers)["case"].volumes
    assert len(found) == 2
    for values, affine, _ in found:
        assert min(largest_error(values, affine, one), largest_error(values, affine, other)) <= 0.51


def test_uneven_slices_of_doubtful_scans_get_no_hint_and_no_interpolation(tmp_path: Path, readers) -> None:
    """Acquisitions go up and down without blocks, the values are smooth: it is unknown whether it is one scan."""
    depths = np.array([0, 2, 4, 6, 8.9, 11, 13, 15, 17.7, 20, 22, 24, 26, 28.0])
    phantom = replace(random_phantom(0, slices=14), depths=tuple(depths), orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    made = datasets(phantom)
    for ds, number in zip(made, [1, 1, 2, 1, 1, 3, 1, 1, 1, 2, 1, 1, 1, 1], strict=True):
        ds.AcquisitionNumber = number
    save(made, tmp_path / "s" / "case")
    for number, uneven in enumerate(("refuse", "resample")):
        found = ingest(tmp_path / "s", tmp_path / str(number), options={"uneven": uneven}, readers=readers)["case"]
        assert not found.volumes and found.codes == {"uneven"}
        assert "uneven: resample" not in found.rejected[0]["sentence"] and "acquisition" in found.rejected[0]["sentence"]


def test_time_points_across_midnight_stay_in_their_order(tmp_path: Path, readers) -> None:
    base = random_phantom(2, modality="MR", constant=600.0)
    truths = [replace(base, constant=600.0 + 50 * t) for t in range(3)]
    for t, truth in enumerate(truths):
        made = datasets(truth)
        for n, ds in enumerate(made):
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["m", str(t), str(n)])
            ds.StudyDate, ds.AcquisitionDate = "20201231", ("20201231", "20201231", "20210101")[t]
            ds.AcquisitionTime = ("235900.000000", "235959.500000", "000059.000000")[t]
            del ds.AcquisitionNumber
        save(made, tmp_path / "s" / "case", names=lambda n, t=t: f"{t}-{n}.dcm")  # type: ignore[misc]
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"].volumes
    order = sorted(found, key=lambda volume: volume[2]["time_index"])
    assert [largest_error(values, affine, truth) <= 0.51 for (values, affine, _), truth in zip(order, truths, strict=True)]


def test_no_date_leaves_the_reader(tmp_path: Path, readers) -> None:
    ds = datasets(random_phantom(0))[0]
    ds.StudyDate, ds.AcquisitionDate, ds.AcquisitionTime = "20201231", "20210101", "000059.000000"
    (path,) = save([ds], tmp_path)
    answer = readers.ask("scan", {"path": str(path), "size": path.stat().st_size}, memory_mb=150, timeout_s=20)
    assert answer["header"]["frame"]["acquisition_s"] == 86400 + 59
    assert "2020" not in str(answer) and "2021" not in str(answer)


def test_padding_becomes_air_and_is_counted(tmp_path: Path, readers) -> None:
    for seed in range(2):
        found = _made("padding_lowest", seed, tmp_path / str(seed), readers)
        assert found.volumes[0][0].min() == -1024
        assert found.volumes[0][2]["dtype"] == "int16"


def test_a_sound_series_with_a_padding_tag_keeps_its_bytes(tmp_path: Path, readers) -> None:
    """16 signed bits with an intercept: no voxel is padding, so stored values are unchanged."""
    phantom = random_phantom(3)
    made = datasets(phantom)
    for ds, position in zip(made, phantom.positions(), strict=True):
        set_values(ds, phantom.plane(position), bits=16, signed=True)
        ds.add_new(0x00280120, "SS", -2000)
    save(made, tmp_path / "s" / "case")
    ((values, affine, row),) = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"].volumes
    assert (row["dtype"], row["slope"], row["intercept"]) == ("int16", 1.0, -1024.0)
    assert largest_error(values, affine, phantom) <= 0.51


# ---- lines


def _line(depths: np.ndarray, pixel_mm: float = 0.7, decimals: int = 6) -> bool:
    positions = np.round(depths[:, None] * UP, decimals)
    return line_of(positions, UP, pixel_mm, interpolate=False, hint="").even


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_tolerances_are_shares_of_the_voxel(scale: float) -> None:
    """What is even in millimetres is even in micrometres, and what is not is not."""
    even = np.arange(30) * scale
    assert _line(even, scale, 9)
    for change, code in (
        (np.delete(even, 7), "missing_slice"),
        (np.where(np.arange(30) == 7, even + 0.1 * scale, even), "uneven"),
    ):
        with pytest.raises(Refusal) as refused:
            _line(change, scale, 9)
        assert refused.value.code == code


def test_small_errors_to_one_side_have_a_limit() -> None:
    def grown(count: int) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(np.where(np.arange(count) < count / 2, 5.02, 4.98))])

    assert _line(grown(20))
    with pytest.raises(Refusal) as refused:
        _line(grown(200))
    assert refused.value.code == "uneven" and "from its place" in refused.value.sentence


def test_decimals_of_positions_widen_the_tolerance_only_where_rounding_explains_it() -> None:
    assert _line(np.arange(30) * 1.37, decimals=1)
    assert not np.allclose(np.diff(np.round(np.arange(30) * 1.37, 1)), 1.37, rtol=0.01)
    assert decimals_mm(np.array([[1.0, 2.25, 3.125]])).tolist() == [0.1, 0.01, 0.001]
    with pytest.raises(Refusal):
        _line(np.where(np.arange(30) == 12, np.arange(30) * 1.37 + 0.2, np.arange(30) * 1.37), decimals=1)
    with pytest.raises(Refusal):  # whole millimetres are not a scanner's rounding
        _line(np.array([0, 5, 10, 15, 19, 24, 29.0]))


@pytest.mark.parametrize(("depths", "of_two"), [
    (sorted([*np.arange(0, 30, 3.0), *np.arange(1.1, 30, 3.0)]), True),  # one between the other
    ([*np.arange(0, 20, 2.0), *np.arange(20, 60, 5.0)], True),  # one after the other
    (sorted([*np.arange(0, 30, 3.0), *np.arange(16.4, 60, 4.0)]), True),  # overlapping
    (list(np.arange(20) * 3.0 + rng(1, "jitter").uniform(-0.6, 0.6, 20)), False),
    ([0, 3, 6, 9, 12, 15.7, 18.7, 21.2, 24.6, 27.9, 31.0], False),
])  # fmt: skip
def test_the_hint_to_interpolate_is_given_for_one_scan_alone(depths: list[float], of_two: bool, tmp_path: Path, readers) -> None:
    """Followed for the slices of two scans, it would mix them."""
    assert on_two_grids(np.array(depths)) == of_two
    phantom = random_phantom(3, slices=len(depths), depths=tuple(float(d) for d in depths), slope_per_mm=(1.0, 1.0, 1.0))
    save(datasets(phantom), tmp_path / "s" / "case")
    (row,) = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"].rejected
    assert row["code"] == "uneven"
    assert ("`uneven: resample` interpolates" in row["sentence"]) != of_two
    assert ("two even grids" in row["sentence"]) == of_two
