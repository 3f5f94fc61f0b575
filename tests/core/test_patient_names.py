"""Names of published collections, and the people that their documentation says they hold."""

from __future__ import annotations

import itertools

import pytest

from medssl.core.patient_names import OF_A_SCAN, perhaps_fewer, subject_of, subjects_of

COLLECTIONS: dict[str, dict[str, list[str]]] = {
    "brats 2023": {
        f"{n}": [f"{n}{t}/BraTS-GLI-0000{n}-00{t}-{kind}.nii.gz" for t in (0, 1) for kind in ("t1c", "t2f", "t1n")]
        for n in (0, 1)
    },
    "brats 2021": {f"{n}": [f"BraTS2021_0000{n}/BraTS2021_0000{n}_{k}.nii.gz" for k in ("t1", "t1ce", "flair")] for n in (0, 1)},
    "ixi": {f"{n}": [f"IXI00{n}-Guys-0828-{kind}.nii.gz" for kind in ("T1", "T2", "PD", "MRA")] for n in (2, 3)},
    "pi-cai": {f"{n}": [f"{n}/{n}_10000{n}_{kind}.mha" for kind in ("t2w", "adc", "hbv", "cor", "sag")] for n in (10000, 10001)},
    "oasis": {f"{n}": [f"OAS1_000{n}_MR{visit}.nii.gz" for visit in (1, 2)] for n in (1, 2)},
    "adni": {
        "0295": [f"ADNI_002_S_0295_MR_MPRAGE_{day}.nii" for day in ("20060418", "20070525193713091_1_S13408_I13722")],
        "0413": ["ADNI_002_S_0413_MR_MPRAGE_20061115.nii"],
    },
    "acdc": {f"{n}": [f"patient00{n}/patient00{n}_{what}.nii.gz" for what in ("frame01", "frame12")] for n in (1, 2)},
    "contrast": {f"{n}": [f"Patient{n}_{what}.nii.gz" for what in ("pre", "post", "Post-Contrast", "T1-post")] for n in (1, 2)},
    "phases": {f"{n}": [f"liver_{n}_{what}.nii" for what in ("arterial", "Portal_Venous", "native", "art")] for n in (1, 2)},
    "dates": {f"{n}": [f"pat{n}_{day}.nii" for day in ("20200101", "2021-05-05", "01.02.2022")] for n in (1, 2)},
    "folders of dates": {f"{n}": [f"P{n}/{day}/t1.nii" for day in ("20200101", "2021-05-05")] for n in (1, 2)},
    "sides": {f"{n}": [f"subj{n}_{side}.nii" for side in ("left", "RIGHT", "L", "r")] for n in (1, 2)},
    "visits": {f"{n}": [f"p{n}_{v}.nii" for v in ("visit_1", "visit2", "ses-3", "follow_up_2", "m12", "fu1")] for n in (1, 2)},
    "cases": {f"{n}": [f"case_{n}.nii"] for n in range(1, 4)},
    "hyphens": {f"{n}": [f"volume-{n}.nii"] for n in range(3)},
    "four digits": {f"{n}": [f"amos_train_{n:04d}.nii"] for n in range(8, 12)},
    "numbers of two": {f"{a}{b}": [f"site{a}_{b}.nii"] for a in (1, 2) for b in (1, 2)},
    "numbered modality": {f"{n}": [f"brain_mr{n}.nii"] for n in (1, 2)},
    "organs": {name: [f"task_{name}.nii"] for name in ("lung", "bone", "brain")},
    "scans by date alone": {day: [f"head_{day}.nii"] for day in ("20200101", "20200102")},
    "nnu-net": {f"{n}": [f"imagesTr/case_00{n}_000{c}.nii.gz" for c in (0, 1)] for n in (1, 2)},
}


@pytest.mark.parametrize("people", COLLECTIONS.values(), ids=COLLECTIONS)
def test_files_are_of_the_people_that_the_collection_has(people: dict[str, list[str]]) -> None:
    found = subjects_of(itertools.chain(*people.values()))
    taken = {person: {found[name] for name in names} for person, names in people.items()}
    assert all(len(subjects) == 1 for subjects in taken.values()), taken
    assert len(set().union(*taken.values())) == len(people), taken


@pytest.mark.parametrize("between", "_-. ")
def test_names_equal_but_for_words_of_a_scan_are_of_one_patient(between: str) -> None:
    for word in OF_A_SCAN:
        assert subject_of(f"x/case{between}7{between}{word}.nii.gz") == f"case{between}7"
        assert subject_of(f"A7/{word.upper()}.nii.gz") == "A7"


def test_what_may_be_fewer_patients_is_known_and_numbers_of_cases_are_not() -> None:
    assert perhaps_fewer(["10000_1000", "10000_1001", "10001_1002"]) == 2
    assert perhaps_fewer(["Meier_20200101", "Meier_20210101", "Huber_20200303", "x"]) == 3
    for plain in (
        [f"case_{n}" for n in range(40)],
        [f"BraTS2021_{n:05d}" for n in range(40)],
        [f"IXI{n}-Guys-{n}" for n in range(40)],
        [f"set{n % 2}_{n}" for n in range(40)],
        ["p1", "p2"],
        [],
    ):
        assert perhaps_fewer(plain) is None
