"""Characteristics of patients are counted once per patient, and no count points to a few of them."""

from __future__ import annotations

import pandas as pd
import pytest

from medssl.report.evidence import Evidence
from medssl.report.patients import FEWEST, patient_rows, to_hide
from medssl.report.section import Table, Text
from medssl.report.sections.data import data


def evidence_of(people: dict[str, list[object]], *, series_each: int = 1, **labels: list[object]) -> Evidence:
    """A source with some series of each patient, and perhaps columns of its label table."""
    count = len(next(iter(people.values())))
    rows = [
        {"volume_id": f"v-{n}-{s}", "subject_id": f"p-{n}", "kind": "volume", "modality": "CT", "num_files": 1, "lossy": False}
        | {name: values[n] for name, values in people.items()}
        for n in range(count)
        for s in range(series_each)
    ]
    samples = pd.DataFrame(
        [
            {"sample_id": f"{row['volume_id']}-{k}", "volume_id": row["volume_id"], "subject_id": row["subject_id"]}
            for row in rows
            for k in range(2)
        ]
    )
    places = [int(name.split("-")[1]) for name in samples["subject_id"]]
    samples = samples.assign(split="train", kind="volume", unit="patient", label=None)
    samples = samples.assign(**{f"group_{name}": [values[n] for n in places] for name, values in labels.items()})
    return Evidence("t", series={"ct": pd.DataFrame(rows)}, samples={"ct": samples})


def shown_of(evidence: Evidence) -> dict[tuple[str, str], str]:
    rows = patient_rows(evidence)
    return dict(zip(zip(rows["characteristic"], rows["value"], strict=True), rows["shown"], strict=True))


SEXES = ["F"] * 9 + ["M"] * 7 + [None] * 6
AGES = [61, *[69] * 8, *[70] * 6, 90, *[34] * 6]


def test_a_patient_with_several_series_counts_once() -> None:
    found = {
        key: "".join(filter(str.isdigit, text)) for key, text in shown_of(evidence_of({"sex": SEXES}, series_each=3)).items()
    }
    assert found == {("Patients", "all"): "22", ("Sex", "female"): "9", ("Sex", "male"): "7", ("Sex", "not known"): "6"}


def test_ages_are_decades_and_columns_of_the_label_table_stand_beside() -> None:
    found = shown_of(evidence_of({"age_years": AGES}, hospital=["a"] * 11 + ["b"] * 11))
    assert found[("Age", "60 to 69")] == "9" and found[("Age", "90 and more")] == "< 5"
    assert (found[("Hospital", "a")], found[("Hospital", "b")]) == ("11", "11")


@pytest.mark.parametrize(
    ("counts", "hidden"),
    [
        ([9, 7, 6], []),
        ([9, 7, 1], [1, 7]),
        ([9, 2, 1], [1, 2]),
        ([30, 4], [4, 30]),
        ([3], [3]),
        ([FEWEST, FEWEST], []),
        ([FEWEST - 1, FEWEST - 1, 40], [FEWEST - 1, FEWEST - 1]),
    ],
)
def test_no_small_group_can_be_worked_out_from_the_sum(counts: list[int], hidden: list[int]) -> None:
    named = {f"group {place}": number for place, number in enumerate(counts)}
    found = to_hide(named)
    assert sorted(named[name] for name in found) == hidden
    assert len(found) != 1 or len(counts) == 1


@pytest.mark.parametrize("few", [1, 2, FEWEST - 1])
def test_what_few_patients_are_like_is_nowhere_in_the_section(few: int) -> None:
    """Of a source of few, nothing; of a group of few in a large source, no number in the page's table or its download."""
    alone = data(evidence_of({"sex": ["F"] * few, "manufacturer_code": ["bruker"] * few}))
    assert not [block for block in alone.blocks if isinstance(block, Table) and block.name == "patients"]
    assert any("fewer than 5 patients" in str(block.html) for block in alone.blocks if isinstance(block, Text))
    section = data(evidence_of({"sex": ["F"] * few + ["M"] * 20}))
    (table,) = [block for block in section.blocks if isinstance(block, Table) and block.name == "patients"]
    rows = table.rows.set_index(["characteristic", "value"])
    assert rows.loc[("Sex", "female"), "shown"] == "< 5" and rows.loc[("Sex", "male"), "shown"] == "not shown"
    assert rows["patients"].dropna().tolist() == [few + 20]


def test_a_source_that_says_nothing_of_its_patients_is_named() -> None:
    section = data(evidence_of({"sex": [None] * 8}))
    assert any("not given by ct." in str(block.html) for block in section.blocks if isinstance(block, Text))
