"""Laws of shares and folds: exact counts, even over strata, and few units move when one is added."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.core.errors import StudyError
from medssl.core.partition import dealt_out, folds_of, parts_of_fold, strata_of, unit_draws

PATIENTS = [f"p-{n:012x}" for n in range(1000)]
STRATA = st.lists(st.sampled_from("abcde"), min_size=1, max_size=60)


def dealt(strata: dict[str, str], seed: int = 0, **counts: int) -> dict[str, str]:
    return dealt_out(strata, counts, unit_draws(list(strata), seed))


@settings(deadline=None)
@given(STRATA, st.data())
def test_counts_are_exact_and_each_stratum_has_its_share_rounded(names, data):
    strata = dict(zip(PATIENTS, names, strict=False))
    test = data.draw(st.integers(0, len(strata)))
    val = data.draw(st.integers(0, len(strata) - test))
    parts = dealt(strata, test=test, val=val)
    assert Counter(parts.values()) == Counter({"test": test, "val": val, "train": len(strata) - test - val})
    for name in set(names):
        share = Fraction(test * names.count(name), len(names))
        found = sum(parts[unit] == "test" for unit in strata if strata[unit] == name)
        assert share // 1 <= found <= -(-share // 1)


@pytest.mark.parametrize(("count", "expected"), [(10, {"a": 6, "b": 3, "c": 1}), (5, {"a": 3, "b": 2, "c": 0})])
def test_the_largest_remainder_gets_what_is_left(count, expected):
    # by hand: 60, 30 and 10 of 100 make 6, 3, 1 of ten, and 3, 1.5, 0.5 of five
    strata = dict(zip(PATIENTS, "a" * 60 + "b" * 30 + "c" * 10, strict=False))
    found = Counter(strata[unit] for unit, part in dealt(strata, test=count).items() if part == "test")
    assert {name: found[name] for name in "abc"} == expected


@given(st.integers(3, 200), st.integers(0, 20))
@settings(deadline=None)
def test_one_more_patient_moves_three_others_at_most(number, seed):
    def parts(of: int) -> dict[str, str]:
        counts = {"test": round(0.2 * of), "val": round(0.1 * of)}
        return dealt(dict.fromkeys(PATIENTS[:of], "all"), seed, **counts)

    before, after = parts(number), parts(number + 1)
    assert sum(before[unit] != after[unit] for unit in before) <= 3


def test_who_is_held_out_depends_on_the_seed_and_on_no_order():
    strata = dict.fromkeys(PATIENTS[:100], "all")
    assert dealt(strata, 1, test=20) == dealt(dict(reversed(strata.items())), 1, test=20)
    assert len({tuple(sorted(dealt(strata, seed, test=20).items())) for seed in range(20)}) == 20


def test_a_unit_counts_for_its_rarest_label():
    units = ["p-a", "p-a", "p-b", "p-c", "p-c", "p-d"]
    strata = strata_of(units, labels=["sound", "ill", "sound", "sound", "sound", None], modalities=["CT"] * 6)
    assert len({strata[unit] for unit in ("p-a", "p-b", "p-d")}) == 3
    assert strata["p-b"] == strata["p-c"]


def test_modalities_are_strata():
    strata = strata_of(["p-a", "p-b", "p-b", "p-c"], modalities=["CT", "MR", "CT", "CT"])
    assert strata["p-a"] == strata["p-c"] != strata["p-b"]


def test_draws_are_uniform():
    from scipy.stats import kstest

    assert kstest(list(unit_draws(PATIENTS, 5, "split").values()), "uniform").pvalue > 1e-3


@settings(deadline=None)
@given(STRATA, st.integers(2, 7), st.integers(0, 9))
def test_folds_differ_by_one_unit_at_most_over_all_and_within_each_stratum(names, num_folds, seed):
    strata = dict(zip(PATIENTS, names, strict=False))
    folds = folds_of(strata, num_folds, unit_draws(list(strata), seed))
    assert set(folds) == set(strata)
    for of in [list(strata), *([unit for unit in strata if strata[unit] == name] for name in set(names))]:
        sizes = [sum(folds[unit] == fold for unit in of) for fold in range(num_folds)]
        assert sum(sizes) == len(of) and max(sizes) - min(sizes) <= 1


def test_one_more_patient_moves_one_at_each_border_of_folds_at_most():
    for number in range(20, 120):
        before, after = (
            folds_of(dict.fromkeys(PATIENTS[:n], "all"), 5, unit_draws(PATIENTS[:n], 3)) for n in (number, number + 1)
        )
        assert sum(before[unit] != after[unit] for unit in before) <= 4


@pytest.mark.parametrize("val_frac", [0.0, 0.1, 0.25])
def test_outside_a_fold_an_exact_share_validates(val_frac):
    folds = [place % 5 for place in range(103)]
    rows, of_row = PATIENTS[:103] * 3, folds * 3
    for fold in range(5):
        parts = parts_of_fold(rows, of_row, fold, val_frac=val_frac, seed=0)
        assert ((parts == "test") == (np.array(of_row) == fold)).all()
        part_of = dict(zip(rows, parts, strict=True))
        assert [part_of[unit] for unit in rows] == list(parts), "a patient is in one part"
        outside = 103 - folds.count(fold)
        assert Counter(part_of.values())["val"] == round(val_frac * outside)


def test_folds_validate_on_different_patients_and_evenly_over_labels():
    units, folds = PATIENTS[:200], [place % 4 for place in range(200)]
    labels = ["rare" if place % 10 == 0 else "common" for place in range(200)]
    chosen = []
    for fold in range(4):
        parts = parts_of_fold(units, folds, fold, val_frac=0.2, seed=0, labels=labels)
        outside = [label for label, own in zip(labels, folds, strict=True) if own != fold]
        rare = sum(part == "val" and label == "rare" for part, label in zip(parts, labels, strict=True))
        assert abs(rare - 0.2 * outside.count("rare")) < 1
        chosen.append(frozenset(unit for unit, part in zip(units, parts, strict=True) if part == "val"))
    assert len(set(chosen)) == 4
    assert list(parts_of_fold(units, folds, 1, val_frac=0.2, seed=0)) != list(
        parts_of_fold(units, folds, 1, val_frac=0.2, seed=1)
    )


def test_a_fold_that_leaves_nothing_to_train_on_is_refused():
    with pytest.raises(StudyError, match=r"fold 0: val_frac 0.9 of the 2 units outside it is 2.*Lower prepare.split.val_frac"):
        parts_of_fold(PATIENTS[:3], [0, 1, 2], 0, val_frac=0.9, seed=0)


def test_labels_of_one_unit_each_are_dealt_out_at_random_and_not_in_the_order_of_their_names():
    """Ages: each is a stratum of one unit, so that all remainders are equal."""
    units = PATIENTS[:100]
    strata = dict(zip(units, (f"{40 + n:03d}" for n in range(100)), strict=True))
    ranks = []
    for seed in range(40):
        parts = dealt(strata, seed, test=20, val=10)
        ranks.append([np.mean([int(strata[unit]) - 40 for unit in units if parts[unit] == part]) for part in ("test", "val")])
    # a mean of 20 of 100 ranks: 49.5 with a standard deviation of 5.8, of 40 such 0.9
    assert abs(np.mean(ranks, axis=0) - 49.5).max() < 5 and np.std(ranks, axis=0).min() > 3
