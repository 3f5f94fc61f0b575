"""Laws of the split."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medssl.core.errors import StudyError
from medssl.prepare.options import SplitOptions
from medssl.prepare.split import Split, split

PATIENTS = [f"p-{n:012x}" for n in range(1000)]


def table(ids: list[str], official: list[str | None] | None = None, **columns: object) -> pd.DataFrame:
    """A row per sample of some units; each row is a separate scan."""
    nothing: list[str | None] = [None] * len(ids)
    own = {"unit_id": ids, "unit": "patient", "official": official or nothing, "label": nothing, "modality": "CT"}
    return pd.DataFrame(own | {"scan_id": [f"v-{n}" for n in range(len(ids))]} | columns, dtype=object)


def found(units: pd.DataFrame, *, seed: int = 0, listed: dict[str, str] | None = None, **options: object) -> Split:
    return split(units, SplitOptions(**options), seed=seed, listed=listed)  # type: ignore[arg-type]


def parts(units: pd.DataFrame, **options: object) -> list[str]:
    return list(found(units, **options).part)  # type: ignore[arg-type]


def test_64_images_give_6_and_6():
    for seed in range(20):
        assert Counter(parts(table(PATIENTS[:64]), seed=seed)) == {"train": 52, "val": 6, "test": 6}


@settings(deadline=None)
@given(st.integers(3, 120), st.floats(0, 0.5), st.floats(0, 0.49), st.integers(0, 9))
def test_counts_are_the_fractions_rounded_or_the_split_is_refused(count, val_frac, test_frac, seed):
    expected = {"val": round(val_frac * count), "test": round(test_frac * count)}
    units = table(PATIENTS[:count] * 2)
    if sum(expected.values()) == count:
        with pytest.raises(StudyError, match="nothing is left to train on"):
            parts(units, seed=seed, val_frac=val_frac, test_frac=test_frac)
        return
    part = dict(zip(units["unit_id"], parts(units, seed=seed, val_frac=val_frac, test_frac=test_frac), strict=True))
    assert {name: list(part.values()).count(name) for name in expected} == expected


def test_a_patient_is_in_one_part():
    ids = PATIENTS[:50] * 7
    frame = pd.DataFrame({"id": ids, "part": parts(table(ids), seed=3, val_frac=0.3, test_frac=0.3)})
    assert frame.groupby("id")["part"].nunique().max() == 1


def test_every_class_and_every_modality_has_its_share():
    label = ["rare" if n % 20 == 0 else "common" for n in range(400)]
    modality = ["MR" if n % 4 == 1 else "CT" for n in range(400)]
    units = table(PATIENTS[:400], label=label, modality=modality)
    for seed in range(10):
        units["part"] = parts(units, seed=seed, val_frac=0.1, test_frac=0.2)
        for column in ("label", "modality"):
            for name, group in units.groupby(column):
                shares = group["part"].value_counts()
                assert abs(shares["test"] - 0.2 * len(group)) <= 1, (name, shares)
                assert abs(shares["val"] - 0.1 * len(group)) <= 1, (name, shares)


def test_a_few_new_patients_move_few_others():
    before = dict(zip(PATIENTS[:100], parts(table(PATIENTS[:100]), val_frac=0.2, test_frac=0.2), strict=True))
    after = dict(zip(PATIENTS, parts(table(PATIENTS[:105]), val_frac=0.2, test_frac=0.2), strict=False))
    assert sum(before[name] != after[name] for name in before) <= 5


def test_order_does_not_matter():
    forward = parts(table(PATIENTS), seed=1, val_frac=0.2, test_frac=0.2)
    assert forward == parts(table(PATIENTS[::-1]), seed=1, val_frac=0.2, test_frac=0.2)[::-1]


def test_growing_a_fraction_moves_patients_only_out_of_train():
    small = found(table(PATIENTS), val_frac=0.0, test_frac=0.1).part
    large = found(table(PATIENTS), val_frac=0.0, test_frac=0.3).part
    assert set(small.index[small == "test"]) < set(large.index[large == "test"])


def test_zero_fractions_leave_all_in_train_and_nothing_to_say():
    one = found(table(PATIENTS[:4]), val_frac=0, test_frac=0)
    assert set(one.part) == {"train"} and one.notes == [] and one.fold is None


# Official and listed parts


def test_official_parts_are_kept():
    official = ["train", "val", "test", "train"] * 5
    assert parts(table(PATIENTS[:20], official), val_frac=0.5, test_frac=0.4) == official


def test_missing_validation_part_is_an_exact_share_of_train_and_test_stays():
    official = ["train"] * 300 + ["test"] * 100
    own = parts(table(PATIENTS[:400], official), val_frac=0.2, test_frac=0.0)
    assert set(own[300:]) == {"test"}
    assert own[:300].count("val") == 60
    assert parts(table(PATIENTS[:400], official), val_frac=0.0, test_frac=0.2) == official


def test_rows_without_an_official_part_train():
    assert parts(table(PATIENTS[:4], ["train", None, "test", "val"]), val_frac=0.5, test_frac=0.4) == [
        *("train", "train", "test", "val")
    ]


def test_a_users_list_decides_alone():
    listed = dict(zip(PATIENTS[:4], ["test", "train", "val", "train"], strict=True)) | {"p-somebody-else": "test"}
    units = table([PATIENTS[1], PATIENTS[0], PATIENTS[1]], ["test", "test", "test"])
    assert parts(units, val_frac=0.5, test_frac=0.4, listed=listed) == ["train", "test", "train"]


def test_a_list_that_lacks_a_patient_is_refused():
    with pytest.raises(StudyError, match=rf"no row for 1 of 2 units.*{PATIENTS[1]}"):
        found(table(PATIENTS[:2]), listed={PATIENTS[0]: "train"})


def test_an_unknown_part_is_refused_with_a_hint():
    with pytest.raises(StudyError, match=r"'tset'.*Did you mean 'test'"):
        found(table(PATIENTS[:1]), listed={PATIENTS[0]: "tset"})
    with pytest.raises(StudyError, match="'validation'"):
        found(table(PATIENTS[:1], ["validation"]))


# Warnings


@pytest.mark.parametrize("patients", [1, 2])
def test_fewer_than_three_patients_with_a_scan_each_all_train_and_it_is_reported(patients):
    one = found(table(PATIENTS[:patients]), val_frac=0.45, test_frac=0.45)
    assert set(one.part) == {"train"}
    assert [note.split(":")[0] for note in one.notes] == ["The validation part is empty", "The test part is empty"]
    assert f"the source has {patients} patient" in one.notes[0]


@pytest.mark.parametrize("patients", [1, 2])
@pytest.mark.parametrize("frac", ["val_frac", "test_frac"])
def test_many_scans_of_too_few_patients_stop_with_the_cause_and_the_remedy(patients, frac):
    units = table(PATIENTS[:patients] * 8)
    with pytest.raises(StudyError) as stop:
        found(units, **{"val_frac": 0.0, "test_frac": 0.0} | {frac: 0.1})
    said = str(stop.value)
    assert f"All {8 * patients} scans are of {patients} patient" in said
    for word in ("PatientID", "ingest.subject_pattern", "`subject`", f"set {frac} to 0"):
        assert word in said, word
    asked_for = found(units, val_frac=0.0, test_frac=0.0)
    assert set(asked_for.part) == {"train"} and asked_for.notes == []


def test_many_scans_of_too_few_patients_may_be_divided_by_a_list():
    listed = {PATIENTS[0]: "train", PATIENTS[1]: "test"}
    assert set(found(table(PATIENTS[:2] * 8), listed=listed).part) == {"train", "test"}


def test_two_patients_with_a_scan_more_all_train_and_are_reported_as_two():
    one = found(table([*PATIENTS[:2], PATIENTS[0]]))
    assert set(one.part) == {"train"}
    assert one.notes[2].startswith("All 3 scans are of 2 patients.") and "ingest.subject_pattern" in one.notes[2]


def test_too_many_folds_for_a_hidden_patient_say_what_hides_them():
    with pytest.raises(StudyError, match=r"5 folds of 1 patient.*All 8 scans are of 1 patient.*ingest\.subject_pattern"):
        found(table(PATIENTS[:1] * 8), folds=5)


@pytest.mark.parametrize(
    ("count", "said"),
    [(4, ["validation part is empty", "test part is empty"]), (20, ["holds 2 patients only", "holds 2 patients only"]), (50, [])],
)
def test_an_empty_or_a_tiny_part_is_reported(count, said):
    notes = found(table(PATIENTS[:count])).notes
    assert len(notes) == len(said) and all(words in note for words, note in zip(said, notes, strict=True))


def test_a_part_that_a_list_or_an_official_split_lacks_is_reported():
    listed = dict.fromkeys(PATIENTS[:9], "train")
    assert "split.file puts nothing in it" in found(table(PATIENTS[:9]), listed=listed).notes[1]
    official: list[str | None] = ["train"] * 60 + ["val"] * 9
    (note,) = found(table(PATIENTS[:69], official)).notes
    assert "test part is empty" in note and "the image set's own split" in note


# Folds


def test_every_patient_is_in_one_fold_and_all_are_held_out():
    units = table(PATIENTS[:53] * 3)
    one = found(units, folds=5, val_frac=0.2)
    assert set(one.part) == {"test"}
    assert one.fold is not None and str(one.fold.dtype) == "int8"
    by_unit = one.fold.groupby(units["unit_id"])
    assert by_unit.nunique().max() == 1
    assert sorted(by_unit.first().value_counts()) == [10, 10, 11, 11, 11]
    assert one.notes == []


def test_folds_are_stratified_and_replace_official_parts():
    label = ["rare" if n % 10 == 0 else "common" for n in range(100)]
    units = table(PATIENTS[:100], ["train", "test"] * 50, label=label)
    one = found(units, folds=5)
    rare = one.fold[units["label"] == "rare"]  # type: ignore[index]
    assert sorted(rare.value_counts()) == [2] * 5
    assert one.notes == ["The image set's own parts are not used: the folds hold every unit out once."]


def test_small_folds_are_reported_and_impossible_ones_refused():
    smallest, validation = found(table(PATIENTS[:7]), folds=3, val_frac=0.2).notes
    assert "smallest of 3 folds holds 2 patients" in smallest
    assert "Outside a fold the validation part holds 1 patient only, of 4" in validation
    assert "validation part holds nothing, of 4" in found(table(PATIENTS[:7]), folds=3, val_frac=0.1).notes[1]
    assert len(found(table(PATIENTS[:7]), folds=3, val_frac=0).notes) == 1
    with pytest.raises(StudyError, match=r"5 folds of 4 patients.*Ask for fewer folds"):
        found(table(PATIENTS[:4]), folds=5)
    with pytest.raises(StudyError, match=r"outside a fold there are 2 patients, and val_frac 0.8 leaves nothing"):
        found(table(PATIENTS[:3]), folds=3, val_frac=0.8)


def test_folds_take_no_file_and_no_test_share():
    with pytest.raises(ValidationError, match="folds and file are both set"):
        SplitOptions(folds=5, file="split.tsv")
    with pytest.raises(ValidationError, match="leave nothing to train on"):
        SplitOptions(val_frac=0.5, test_frac=0.5)
    assert SplitOptions(folds=2, val_frac=0.5, test_frac=0.5).folds == 2
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        SplitOptions(folds=1)
