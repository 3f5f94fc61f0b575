"""Laws of the split."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.core.errors import StudyError
from medssl.prepare.split import split, unit_draws


def table(ids: list[str], official: list[str | None] | None = None) -> pd.DataFrame:
    return pd.DataFrame({"unit_id": ids, "unit": "patient", "official": official or [None] * len(ids)}, dtype=object)


PATIENTS = [f"p-{n:012x}" for n in range(1000)]


def test_a_patient_is_in_one_part():
    ids = PATIENTS[:50] * 7
    parts = split(table(ids), seed=3, val_frac=0.3, test_frac=0.3)
    assert pd.DataFrame({"id": ids, "part": parts}).groupby("id")["part"].nunique().max() == 1


def test_a_new_patient_moves_no_other():
    before = dict(zip(PATIENTS[:100], split(table(PATIENTS[:100]), seed=1, val_frac=0.2, test_frac=0.2), strict=True))
    after = dict(zip(PATIENTS, split(table(PATIENTS), seed=1, val_frac=0.2, test_frac=0.2), strict=True))
    assert before == {name: after[name] for name in before}


def test_order_does_not_matter():
    forward = split(table(PATIENTS), seed=1, val_frac=0.2, test_frac=0.2)
    backward = split(table(PATIENTS[::-1]), seed=1, val_frac=0.2, test_frac=0.2)
    assert list(forward) == list(backward)[::-1]


def test_shares_are_near_the_fractions_and_depend_on_the_seed():
    counts = []
    for seed in range(20):
        parts = split(table(PATIENTS), seed=seed, val_frac=0.1, test_frac=0.2)
        counts.append([int((parts == name).sum()) for name in ("train", "val", "test")])
    # 20 × 1,000 draws: the standard deviation of a mean share is below 0.003
    np.testing.assert_allclose(np.mean(counts, axis=0) / 1000, [0.7, 0.1, 0.2], atol=0.012)
    assert len({tuple(c) for c in counts}) > 10


def test_growing_a_fraction_moves_patients_only_out_of_train():
    small = split(table(PATIENTS), seed=0, val_frac=0.0, test_frac=0.1)
    large = split(table(PATIENTS), seed=0, val_frac=0.0, test_frac=0.3)
    assert set(small.index[small == "test"]) < set(large.index[large == "test"])


def test_draws_are_uniform():
    from scipy.stats import kstest

    assert kstest(unit_draws(PATIENTS, 5), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_patients_all_train(count):
    for seed in range(20):
        assert set(split(table(PATIENTS[:count] * 4), seed=seed, val_frac=0.45, test_frac=0.45)) == {"train"}


@given(count=st.integers(1, 12), seed=st.integers(0, 50))
def test_train_is_never_empty(count, seed):
    assert "train" in set(split(table(PATIENTS[:count]), seed=seed, val_frac=0.5, test_frac=0.49))


def test_zero_fractions_leave_all_in_train():
    assert set(split(table(PATIENTS), seed=0, val_frac=0, test_frac=0)) == {"train"}


def test_official_parts_are_kept():
    official = ["train", "val", "test", "train"] * 5
    assert list(split(table(PATIENTS[:20], official), seed=0, val_frac=0.5, test_frac=0.4)) == official


def test_missing_validation_part_is_taken_from_train_and_test_stays():
    official = ["train"] * 300 + ["test"] * 100
    parts = split(table(PATIENTS[:400], official), seed=0, val_frac=0.2, test_frac=0.0)
    assert set(parts[300:]) == {"test"}
    assert 30 < (parts[:300] == "val").sum() < 90
    assert list(split(table(PATIENTS[:400], official), seed=0, val_frac=0.0, test_frac=0.2)) == official


def test_rows_without_an_official_part_train():
    parts = split(table(PATIENTS[:4], ["train", None, "test", "val"]), seed=0, val_frac=0.5, test_frac=0.4)
    assert list(parts) == ["train", "train", "test", "val"]


def test_a_users_list_decides_alone():
    listed = dict(zip(PATIENTS[:4], ["test", "train", "val", "train"], strict=True)) | {"p-somebody-else": "test"}
    units = table([PATIENTS[1], PATIENTS[0], PATIENTS[1]], ["test", "test", "test"])
    assert list(split(units, seed=0, val_frac=0.5, test_frac=0.4, listed=listed)) == ["train", "test", "train"]


def test_a_list_that_forgets_somebody_is_refused():
    with pytest.raises(StudyError, match=rf"no row for 1 of 2 units.*{PATIENTS[1]}"):
        split(table(PATIENTS[:2]), seed=0, val_frac=0.1, test_frac=0.1, listed={PATIENTS[0]: "train"})


def test_an_unknown_part_is_refused_with_a_hint():
    with pytest.raises(StudyError, match=r"'tset'.*Did you mean 'test'"):
        split(table(PATIENTS[:1]), seed=0, val_frac=0.1, test_frac=0.1, listed={PATIENTS[0]: "tset"})
    with pytest.raises(StudyError, match="'validation'"):
        split(table(PATIENTS[:1], ["validation"]), seed=0, val_frac=0.1, test_frac=0.1)
