"""Which attributes sort slices into scans, identifiers that are constants, and the remarks on both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults import faults_numbering, faults_people, faults_scans, faults_sound_scans
from ingesting import KEY, ingest
from phantoms import datasets, largest_error, random_phantom, save
from pydicom.uid import generate_uid

from medssl.core.listing import minted
from medssl.ingest.dicom.placeholders import is_placeholder_id, true_uid
from medssl.ingest.dicom.sets_of_slices import Sets, sets_of
from medssl.ingest.subjects import remarks_on_ids

GROUPS = (faults_scans, faults_sound_scans, faults_people, faults_numbering)
CLASSES = (
    faults_scans.SCAN_FAULTS
    | faults_sound_scans.SOUND_SCAN_FAULTS
    | faults_people.PEOPLE_FAULTS
    | faults_numbering.NUMBERING_FAULTS
)
EVEN = 2.5 * np.arange(12)
IN_TURN, HALVES = Sets((0, 1) * 6, in_blocks=False), Sets((0,) * 6 + (1,) * 6, in_blocks=True)


def test_harmless_classes_are_those_that_must_be_right(tmp_path: Path) -> None:
    sound = {name for name, fault in CLASSES.items() if fault(tmp_path / name, 3).must_be_right}
    assert sound == {name for group in GROUPS for name in group.HARMLESS}


@pytest.mark.parametrize(
    ("values", "rule", "expected"),
    [
        (["a", "b"] * 6, "words", IN_TURN),
        (["a"] * 6 + ["b"] * 6, "words", HALVES),
        (["a", ""] * 6, "words", IN_TURN),
        (["a"] * 12, "words", None),
        (["a"] * 10 + ["b"] * 2, "words", None),
        (["a", "b", "b", "a", "b", "a", "a", "b", "a", "b", "b", "a"], "words", None),
        ([f"slice {k}" for k in range(12)], "words", None),
        ([200, 100] * 6, "amount", IN_TURN),
        ([200 + k % 3 - 100 * (k > 5) for k in range(12)], "amount", HALVES),
        ([200, 201] * 6, "amount", None),
        ([150 + 60 * np.sin(k / 3) for k in range(12)], "amount", None),
        ([0.3 * k for k in range(12)], "time", None),
        ([0.3 * k + 60 * (k % 2) for k in range(12)], "time", IN_TURN),
        ([0.3 * k + 60 * (k > 5) for k in range(12)], "time", HALVES),
        ([0.0, 4.0] * 6, "time", IN_TURN),
        # 5 s from slice to slice, the even ones after the odd ones: no pause is longer than others
        ([5.0 * (k // 2 + 6 * (k % 2)) for k in range(12)], "time", IN_TURN),
        ([None, 60.0] * 6, "time", IN_TURN),
    ],
)
def test_slices_are_sorted_by_a_few_values_that_alternate_or_step(values: list, rule: str, expected: Sets | None) -> None:
    assert sets_of(values, EVEN, rule, 3) == expected


def test_sets_between_each_other_are_one_block_beside_another() -> None:
    assert sets_of(["a", "b"] * 3 + ["c", "d"] * 3, EVEN, "words", 3) == HALVES


@pytest.mark.parametrize("uid", ["0", "0.0", "1.1.1.1", "1.2.3", "1.2.3.4.5", "12345", ""])
def test_a_constant_is_not_an_identifier(uid: str) -> None:
    assert true_uid(uid) == ""


@pytest.mark.parametrize(
    "uid", ["1.2.840.10008.1.2", "1.3.12.2.1107", "2.25.3", str(generate_uid(entropy_srcs=["one"])), "not a UID"]
)
def test_any_other_identifier_counts(uid: str) -> None:
    assert true_uid(uid) == uid


def test_nothing_that_is_compared_leaves_the_reader_as_it_is(tmp_path: Path, readers) -> None:
    ds = datasets(random_phantom(0))[0]
    ds.PatientID, ds.PatientName, ds.PatientBirthDate = "Anonymous", "One^Person", "19500203"
    ds.SeriesDescription, ds.ProtocolName, ds.ContrastBolusAgent, ds.SeriesTime = "finding", "Dr. Other", "Agent 350", "101112"
    (path,) = save([ds], tmp_path)
    answer = readers.ask("scan", {"path": str(path), "size": path.stat().st_size}, memory_mb=150, timeout_s=20)
    assert answer["header"]["person"] and len(answer["header"]["frame"]["words"]) >= 3
    said = str(answer).upper()
    assert not any(word in said for word in ("ONE^", "ONEPERSON", "1950", "FINDING", "OTHER", "AGENT 350"))
    ds.PatientID = "p-17"
    (path,) = save([ds], tmp_path)
    answer = readers.ask("scan", {"path": str(path), "size": path.stat().st_size}, memory_mb=150, timeout_s=20)
    assert answer["header"]["person"] == "", "a patient with an identifier is known by it alone"


@pytest.mark.parametrize(("name", "warnings"), [("packages_in_two_times", []), ("packages_with_crosstalk", ["alternating"])])
def test_packages_are_one_volume_and_doubt_is_reported(name: str, warnings: list[str], tmp_path: Path, readers) -> None:
    CLASSES[name](tmp_path / "s" / "case", 4)
    ((_, _, row),) = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"].volumes
    assert row["warnings"] == warnings


def test_scans_of_other_sequences_are_not_mixed_by_interpolation(tmp_path: Path, readers) -> None:
    """0.3 steps apart, with `uneven: resample`: two volumes, each of one scan."""
    one = random_phantom(1, modality="MR", constant=600.0)
    other = replace(one, origin=tuple(np.array(one.origin) + 0.3 * one.step * one.normal), constant=660.0)
    made = [*datasets(one), *datasets(other)]
    for number, ds in enumerate(made):
        ds.SequenceName = ("*se2d1", "*tir2d1")[number // one.slices]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["seq", str(number)])
    save(made, tmp_path / "s" / "case")
    found = ingest(tmp_path / "s", tmp_path / "x", options={"uneven": "resample"}, readers=readers)["case"].volumes
    assert len(found) == 2
    for values, affine, _ in found:
        assert min(largest_error(values, affine, one), largest_error(values, affine, other)) <= 0.51


def test_directions_at_one_place_stand_in_the_order_of_their_images(tmp_path: Path, readers) -> None:
    expected = CLASSES["enhanced_directions_at_one_place"](tmp_path / "s" / "case", 5)
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"].volumes
    order = sorted(found, key=lambda volume: volume[2]["time_index"])
    assert [largest_error(v, a, truth) <= 0.51 for (v, a, _), truth in zip(order, expected.truths, strict=True)] == [True, True]


# ---- people


def _said(patient: str, study: str, num_series: int, people: dict[str, set[str]] | None = None) -> list[str]:
    subject = minted(KEY, "p", patient) if patient else minted(KEY, "p", "study", study)
    series = [{"format": "dicom", "subject_id": subject, "series_id": f"s-{n}", "sex": None} for n in range(num_series)]
    return remarks_on_ids(series, {f"s-{n}": minted(KEY, "t", study) for n in range(num_series)}, KEY, named=False, people=people)


def test_constants_in_place_of_identifiers_are_reported() -> None:
    (said,) = _said("", "", 2)
    assert said.startswith("2 series have neither a PatientID nor a StudyInstanceUID, or a constant in its place")
    (said,) = _said("ANONYMOUS", "", 2)
    assert said.startswith("2 series have a PatientID that is a placeholder and no person, and no StudyInstanceUID of their own")
    assert _said("p17", "", 2) == [] and _said("ANONYMOUS", "1.2.840.5", 2) == [] and _said("", "1.2.840.5", 2) == []


def test_several_people_under_no_identifier_are_reported() -> None:
    (said,) = _said("", "1.2.840.5", 1, {"s-0": {"w-1", "w-2"}})
    assert said.startswith("1 series of 1 studies have no PatientID of a person, and names, birth dates or sexes of 2 people")
    assert _said("", "1.2.840.5", 2, {"s-0": {"w-1"}, "s-1": {"w-1"}}) == []
    assert is_placeholder_id("") and is_placeholder_id("Anonymous") and not is_placeholder_id("p-17")


def test_people_in_two_folders_are_two_series(tmp_path: Path, readers) -> None:
    CLASSES["constant_identifiers_two_folders"](tmp_path / "s" / "case", 1)
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"].volumes
    assert len({row["series_id"] for _, _, row in found}) == 2


def test_one_image_with_a_constant_beside_named_series_is_damaged(tmp_path: Path, readers) -> None:
    """Its series may lack it: neither is accepted silently."""
    made = datasets(random_phantom(3))
    made[-1].SeriesInstanceUID = "0"
    save(made, tmp_path / "s" / "case")
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"]
    assert not found.volumes and found.codes == {"missing_tag", "damaged_neighbour"}
