"""The patients of a DICOM source: a pattern or a table names them if the headers do not, and a shared id is reported."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from faults import nifti_image
from ingesting import KEY, ingest
from phantoms import datasets, random_phantom, save
from PIL import Image
from test_ingest_run import here, ingest_all  # noqa: F401

from medssl.core.errors import StudyError
from medssl.core.listing import minted
from medssl.core.patient_names import subject_of
from medssl.ingest.checking import check_source
from medssl.ingest.inventory import Labels
from medssl.ingest.options import IngestOptions
from medssl.ingest.subjects import PLACEHOLDERS, remarks_on_ids


def scans(root: Path, count: int = 4, *, patient: str = "ANONYMOUS", per_person: int = 2) -> list[str]:
    """`count` studies under one PatientID in folders of `per_person` each; the series UIDs by folder."""
    uids = []
    for n in range(count):
        made = datasets(random_phantom(n), series=f"s{n}", study=f"t{n}")
        for one in made:
            one.PatientID = patient
        uids.append(made[0].SeriesInstanceUID)
        save(made, root / f"person{n // per_person}" / f"scan{n}")
    return uids


def people(found: dict) -> dict[str, list[str]]:
    return {name: [row["subject_id"] for _, _, row in one.volumes] for name, one in found.items()}


def keyed(name: str) -> str:
    return minted(KEY, "p", name)


def test_a_pattern_on_the_path_names_the_patients_of_dicom(tmp_path: Path, readers) -> None:
    scans(tmp_path / "in")
    plain = people(ingest(tmp_path / "in", tmp_path / "a", readers=readers, depth=2))
    assert {name for names in plain.values() for name in names} == {keyed("ANONYMOUS")}
    found = people(ingest(tmp_path / "in", tmp_path / "b", readers=readers, depth=2, options={"subject_pattern": r"(person\d)/"}))
    assert found == {f"person{n // 2}/scan{n}": [keyed(f"person{n // 2}")] for n in range(4)}


@pytest.mark.parametrize("by", ["file", "folder", "series", "series_id"])
def test_a_table_names_them_by_file_folder_or_series(by: str, tmp_path: Path, readers) -> None:
    uids = scans(tmp_path / "in")
    names = {
        "file": [f"person{n // 2}/scan{n}/0003.dcm" for n in range(4)],
        "folder": [f"person{n // 2}/scan{n}" for n in range(4)],
        "series": uids,
        "series_id": [minted(KEY, "s", uid) for uid in uids],
    }[by]
    table = Labels(subject={name: f"somebody {n // 2}" for n, name in enumerate(names)})
    found = people(ingest(tmp_path / "in", tmp_path / "a", readers=readers, depth=2, labels=table))
    assert found == {f"person{n // 2}/scan{n}": [keyed(f"somebody {n // 2}")] for n in range(4)}


def test_a_table_joins_two_patient_ids_of_one_person(tmp_path: Path, readers) -> None:
    scans(tmp_path / "in" / "x", 1, patient="A")
    scans(tmp_path / "in" / "y", 1, patient="B")
    table = Labels(subject={"A": "one", "B": "one"})
    found = people(ingest(tmp_path / "in" / "y", tmp_path / "a", readers=readers, labels=table))
    found |= {"x": people(ingest(tmp_path / "in" / "x", tmp_path / "b", readers=readers, labels=table))["person0"]}
    assert found == {"person0": [keyed("one")], "x": [keyed("one")]}


def test_the_nearest_folder_has_the_word_and_the_table_stands_before_the_pattern(tmp_path: Path, readers) -> None:
    scans(tmp_path / "in", 2)
    table = Labels(subject={"person0": "outer", "person0/scan1": "inner"})
    options = {"subject_pattern": r"(scan\d)"}
    found = people(ingest(tmp_path / "in", tmp_path / "a", readers=readers, depth=2, labels=table, options=options))
    assert found == {"person0/scan0": [keyed("outer")], "person0/scan1": [keyed("inner")]}


def test_a_series_whose_files_are_of_two_patients_is_refused(tmp_path: Path, readers) -> None:
    made = datasets(random_phantom(1))
    save(made[:9], tmp_path / "in" / "case" / "a")
    save(made[9:], tmp_path / "in" / "case" / "b")
    whole = ingest(tmp_path / "in", tmp_path / "x", readers=readers)["case"]
    assert len(whole.volumes) == 1
    one = ingest(tmp_path / "in", tmp_path / "y", readers=readers, options={"subject_pattern": r"case/(\w)/"})["case"]
    assert one.volumes == [] and one.codes == {"several_subjects"} and one.num_files == len(made)


def test_pictures_have_the_patient_of_the_pattern_or_of_their_folder(tmp_path: Path, readers) -> None:
    for n in range(4):
        (tmp_path / "in" / "set" / f"p{n // 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8), n, np.uint8)).save(tmp_path / "in" / "set" / f"p{n // 2}" / f"{n}.png")
    for changes in (
        {"options": {"subject_pattern": r"set/(p\d)"}},
        {"labels": Labels(subject={f"set/p{n}": f"p{n}" for n in (0, 1)})},
    ):
        (volume,) = ingest(tmp_path / "in", tmp_path / str(len(changes)), readers=readers, **changes)["set"].volumes
        assert volume[2]["unit"] == "patient"


# Remarks on ids


def rows(*people: str, sexes: str = "", studies: int = 0) -> tuple[list[dict], dict[str, str]]:
    table = [
        {"format": "dicom", "subject_id": keyed(who), "series_id": f"s-{n}", "sex": sexes[n] if sexes else None}
        for n, who in enumerate(people)
    ]
    return table, {f"s-{n}": f"t-{n if not studies else n % studies}" for n in range(len(people))}


@pytest.mark.parametrize("word", ["ANONYMOUS", "anonymous", "Anonymous", "UNKNOWN", "000000", "De-Identified"])
def test_a_placeholder_is_known_also_beside_true_patients(word: str) -> None:
    (said,) = remarks_on_ids(*rows("one", word, word, word, "two"), KEY, named=False)
    assert said.startswith("3 series of 3 studies have a PatientID that is a placeholder")
    assert "ingest.subject_pattern" in said and "`subject`" in said
    assert remarks_on_ids(*rows("one", word, word, word, "two"), KEY, named=True) == [], "the study file's own word"


def test_one_id_for_all_and_one_id_for_both_sexes_are_reported() -> None:
    (said,) = remarks_on_ids(*rows(*["p17"] * 8), KEY, named=False)
    assert said.startswith("All 8 series of 8 studies have one PatientID")
    (said,) = remarks_on_ids(*rows("p1", "p1", "p2", sexes="MFM"), KEY, named=False)
    assert said.startswith(f"2 series of 2 studies have one PatientID ({keyed('p1')}), and both sexes")


def test_nothing_is_reported_of_patients_who_come_again() -> None:
    assert remarks_on_ids(*rows("p1", "p1", "p2", "p3", sexes="MMFF"), KEY, named=False) == []
    assert remarks_on_ids(*rows(*["p1"] * 5, studies=1), KEY, named=False) == [], "one study of one patient"


def test_a_shared_id_is_in_the_log_on_the_screen_and_in_the_receipt(here: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    scans(here / "in", 3)
    _, _, out = ingest_all(here / "in")
    (remark,) = json.loads((out / "receipt.json").read_text())["remarks"]
    assert remark.startswith("3 series of 3 studies have a PatientID that is a placeholder")
    assert f"ingest ct: {remark}" in capsys.readouterr().err
    ingest_all(here / "in", subject_pattern=r"(scan\d)/")
    assert "remarks" not in json.loads((out / "receipt.json").read_text())


def test_placeholders_are_words_in_lower_case() -> None:
    assert all(word == word.lower() for word in PLACEHOLDERS) and len(set(PLACEHOLDERS)) == len(PLACEHOLDERS)


def test_a_clean_phantom_is_not_touched(tmp_path: Path, readers) -> None:
    save(datasets(replace(random_phantom(1))), tmp_path / "in" / "case")
    one = ingest(tmp_path / "in", tmp_path / "x", readers=readers)["case"]
    assert people({"case": one}) == {"case": [keyed("patient-1-a")]}


def test_the_group_that_matches_names_the_patient_and_none_is_refused() -> None:
    pattern = r"(p[0-3])_|(p4)_|none(x)?"
    assert [subject_of(name, pattern) for name in ("a/p2_ct.nii", "a/p4_ct.nii")] == ["p2", "p4"]
    for name in ("a/p5_ct.nii", "none.nii"):
        with pytest.raises(StudyError, match="a group in it the patient"):
            subject_of(name, pattern)


def test_receipts_name_no_folder_of_the_user(here: Path) -> None:  # noqa: F811
    save(datasets(random_phantom(0)), here / "in" / "a")
    ingest_all(here / "in")
    receipts = list((here / "results").rglob("receipt.json"))
    assert receipts and not [path for path in receipts if str(here) in path.read_text()]


# Patients by names of files


def _volumes(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nifti_image(random_phantom(number)), root / name)


def _patients(root: Path, **given: object) -> tuple[dict[str, str], list[str]]:
    checked = check_source(root, **given)
    return {row["file"]: row["subject_id"] for row in checked.items if row["subject_id"]}, checked.remarks


def test_numbered_scans_in_folders_are_of_the_folders(tmp_path: Path) -> None:
    """`A/scan1` and `B/scan1` are two patients, `A/scan1` and `A/scan2` one; a name that may be a person's is one, and said."""
    _volumes(tmp_path / "in", *(f"{who}/scan{n}.nii.gz" for who in "AB" for n in (1, 2)))
    found, (said,) = _patients(tmp_path / "in")
    assert found["A/scan1.nii.gz"] == found["A/scan2.nii.gz"] != found["B/scan1.nii.gz"]
    assert said.startswith("The names of 4 volumes say a kind and a number") and "2 folders" in said


@pytest.mark.parametrize("folders", [("A", "B"), ("train", "test")])
def test_one_name_in_several_folders_is_reported(folders: tuple[str, str], tmp_path: Path) -> None:
    _volumes(tmp_path / "in", *(f"{folder}/p7.nii.gz" for folder in folders))
    found, (said,) = _patients(tmp_path / "in")
    assert len(set(found.values())) == 1
    assert said.startswith("1 file name occurs in several folders (2 volumes)") and "subject_pattern" in said


SPEAKING = {
    "sessions": ("p1/ses-1/p1_ct.nii.gz", "p1/ses-2/p1_ct.nii.gz"),
    "flat": ("imagesTr/img0001.nii.gz", "imagesTr/img0002.nii.gz"),
    "bids": ("a/sub-1_ct.nii.gz", "b/sub-1_ct.nii.gz"),
}


@pytest.mark.parametrize("names", SPEAKING.values(), ids=SPEAKING)
def test_sessions_and_flat_folders_need_no_word(names: tuple[str, ...], tmp_path: Path) -> None:
    _volumes(tmp_path / "in", *names)
    assert _patients(tmp_path / "in")[1] == []


def test_a_table_that_names_half_of_the_patients_is_reported(tmp_path: Path) -> None:
    _volumes(tmp_path / "in", *(f"p{n}.nii.gz" for n in range(4)))
    for blank, remarks in ((2, 1), (0, 0)):
        rows = [f"p{n}.nii.gz,{'' if n < blank else f'x{n}'}" for n in range(4)]
        (tmp_path / "t.csv").write_text("\n".join(["id,subject", *rows]))
        said = _patients(tmp_path / "in", labels=str(tmp_path / "t.csv"))[1]
        assert len(said) == remarks
        assert all(text.startswith("The label table names the patient of 2 of 4") for text in said)


def test_a_person_is_one_however_the_letters_are_coded(tmp_path: Path, readers) -> None:
    composed, decomposed, latin = "M\xfcller", "Mu\u0308ller", os.fsdecode(b"M\xfcller")
    _volumes(tmp_path / "in", *(f"c{n}/{who}_ct.nii.gz" for n, who in enumerate((composed, decomposed, latin))))
    for n, (charset, coded) in enumerate((("ISO_IR 100", b"M\xfcller"), ("ISO_IR 192", composed.encode()))):
        made = datasets(random_phantom(n), series=f"s{n}", study=f"t{n}")
        for one in made:
            one.SpecificCharacterSet, one.PatientID = charset, coded.decode("utf-8" if n else "latin-1")
        save(made, tmp_path / "in" / f"c{n + 3}")
    found = people(ingest(tmp_path / "in", tmp_path / "x", readers=readers))
    assert {who for names in found.values() for who in names} == {keyed(composed)}
    assert len(found) == 5


def test_names_that_begin_alike_are_reported_unless_the_study_file_names_patients(tmp_path: Path) -> None:
    _volumes(tmp_path / "in", "10_100.nii.gz", "10_101.nii.gz", "11_102.nii.gz")
    found, (said,) = _patients(tmp_path / "in")
    assert len(set(found.values())) == 3
    assert (
        said.startswith("3 volumes were taken as 3 patients by their names")
        and "2 patients" in said
        and "subject_pattern" in said
    )
    found, said = _patients(tmp_path / "in", options=IngestOptions(subject_pattern=r"^(\d+)_"))
    assert len(set(found.values())) == 2 and said == []


# Images without PatientID


def _without_id(root: Path, *changes: dict[str, str]) -> tuple[list[str], list[str]]:
    """A study for each of `changes`; the patient of each, in order, and the remarks."""
    for number, change in enumerate(changes):
        made = datasets(random_phantom(number), series=f"s{number}", study=f"t{number}")
        for one in made:
            one.PatientID = ""
            for name in ("PatientName", "PatientBirthDate", "PatientSex"):
                setattr(one, name, change.get(name, ""))
        save(made, root / f"scan{number}")
    found, said = _patients(root)
    return [found[f"scan{number}/0003.dcm"] for number in range(len(changes))], said


HANS = {"PatientName": "Meier^Hans", "PatientBirthDate": "19500101", "PatientSex": "M"}


def test_studies_of_one_name_birth_date_and_sex_are_of_one_patient_and_said(tmp_path: Path) -> None:
    found, (said,) = _without_id(
        tmp_path / "in", HANS, HANS | {"PatientName": "MEIER^HANS"}, HANS | {"PatientBirthDate": "19510101"}
    )
    assert found[0] == found[1] != found[2]
    assert (
        said.startswith("3 series of 3 studies have no PatientID; those of one name, birth date and sex") and "(2 in all)" in said
    )


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"PatientName": "Anonymous^Patient", "PatientBirthDate": "19000101"},
        {"PatientName": "Meier^Hans"},
        {"PatientSex": "M"},
    ],
)
def test_studies_without_a_patient_are_one_patient_each_and_reported(change: dict[str, str], tmp_path: Path) -> None:
    found, (said,) = _without_id(tmp_path / "in", change, change, change)
    assert len(set(found)) == 3
    assert said.startswith("3 series of 3 studies have neither a PatientID nor a person's name") and "subject_pattern" in said


def test_a_single_study_without_an_id_needs_no_word(tmp_path: Path) -> None:
    for name, change in (("a", {}), ("b", HANS)):
        assert _without_id(tmp_path / name, change)[1] == []
