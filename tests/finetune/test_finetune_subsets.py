"""Laws of the nested label subsets."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.core.errors import StudyError
from medssl.finetune.cases import Cases
from medssl.finetune.folds import Divisions
from medssl.finetune.subsets import Share, classes_of_units, first_of_each_class, shares_of, subset, unit_order

SHARES = [*(Share("fraction", f) for f in (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)), *(Share("units", n) for n in (1, 2, 8))]

cases = st.lists(
    st.tuples(st.integers(0, 15), st.frozensets(st.sampled_from("abcd"), min_size=1, max_size=2)), min_size=1, max_size=60
)


@settings(max_examples=60, deadline=None)
@given(cases, st.integers(0, 5))
def test_smaller_shares_lie_inside_larger_ones(rows: list, seed: int) -> None:
    order, num_cover = unit_order([f"p-{u}" for u, _ in rows], [c for _, c in rows], seed)
    chosen = sorted((subset(order, num_cover, share) for share in SHARES), key=len)
    for small, large in itertools.pairwise(chosen):
        assert set(small) <= set(large)
    assert set(subset(order, num_cover, Share("fraction", 1.0))) == {f"p-{u}" for u, _ in rows}


@settings(max_examples=60, deadline=None)
@given(cases, st.integers(0, 5))
def test_every_class_is_in_every_subset(rows: list, seed: int) -> None:
    units, classes = [f"p-{u}" for u, _ in rows], [c for _, c in rows]
    order, num_cover = unit_order(units, classes, seed)
    wanted = frozenset().union(*classes)
    for share in SHARES:
        held = [c for u, c in zip(units, classes, strict=True) if u in subset(order, num_cover, share)]
        assert frozenset().union(*held) == wanted


def test_a_share_holds_the_classes_in_their_proportion() -> None:
    labels = ["a"] * 120 + ["b"] * 60 + ["c"] * 20
    units = [f"p-{n}" for n in range(200)]
    order, num_cover = unit_order(units, [frozenset(x) for x in labels], 3)
    held = Counter(dict(zip(units, labels, strict=True))[u] for u in subset(order, num_cover, Share("fraction", 0.1)))
    assert held == {"a": 12, "b": 6, "c": 2}


def test_order_of_rows_does_not_matter_and_the_seed_does() -> None:
    units, classes = [f"p-{n}" for n in range(40)], [frozenset("ab"[n % 2]) for n in range(40)]
    turned = np.random.default_rng(0).permutation(40)
    again = unit_order([units[n] for n in turned], [classes[n] for n in turned], 0)
    assert unit_order(units, classes, 0) == again
    assert unit_order(units, classes, 1) != again


def test_a_count_is_a_number_of_units_not_of_cases() -> None:
    units = [f"p-{n // 5}" for n in range(50)]
    order, num_cover = unit_order(units, [frozenset("a")] * 50, 0)
    assert len(subset(order, num_cover, Share("units", 2))) == 2
    assert len(subset(order, num_cover, Share("units", 99))) == 10


def test_a_count_that_equals_a_fraction_stands_once() -> None:
    assert [s.word for s in shares_of([0.1, 1.0], [1, 2, 50], 20)] == ["n1", "0p1", "1"]


@settings(max_examples=60, deadline=None)
@given(cases, st.integers(0, 5))
def test_a_count_per_class_takes_so_many_patients_of_each_class(rows: list, seed: int) -> None:
    """At least so many; exactly, where no patient is of two classes. Smaller counts lie inside larger ones."""
    for torn in (True, False):
        units = [f"p-{u}" if torn else f"p-{u}-{min(c)}" for u, c in rows]
        held = classes_of_units(units, [c if torn else frozenset(min(c)) for _, c in rows])
        order, _ = unit_order(units, [c if torn else frozenset(min(c)) for _, c in rows], seed)
        of_all = Counter(name for names in held.values() for name in names)
        counts = range(1, min(of_all.values()) + 1)
        chosen = [first_of_each_class(order, held, sorted(of_all), count) for count in counts]
        for count, units_of_count in zip(counts, chosen, strict=True):
            of_chosen = Counter(name for unit in units_of_count for name in held[unit])
            assert set(of_chosen) == set(of_all) and all(number >= count for number in of_chosen.values())
            assert torn or set(of_chosen.values()) == {count}
            assert units_of_count == [unit for unit in order if unit in set(units_of_count)]
        for small, large in itertools.pairwise(chosen):
            assert set(small) <= set(large)


def test_a_class_with_fewer_patients_than_asked_for_is_named() -> None:
    held = {"p-1": {"a"}, "p-2": {"a", "b"}, "p-3": {"a"}}
    assert first_of_each_class(["p-3", "p-2", "p-1"], held, ["a", "b"], 1) == ["p-3", "p-2"]
    with pytest.raises(
        StudyError, match=r"2 training patients \(images, without patients\) of each class, and class 'b' has 1\."
    ):
        first_of_each_class(list(held), held, ["a", "b"], 2)
    with pytest.raises(StudyError, match="class 'c' has 0"):
        first_of_each_class(list(held), held, ["a", "b", "c"], 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_counts_per_class_are_of_patients_and_may_stand_beside_fractions(seed: int) -> None:
    """Of each patient all cases; a count that comes to as many patients as a fraction stands once."""
    cases = listed_cases(list(range(12)), ["abc"[n % 3] for n in range(12)])
    made = Divisions.of(cases, seeds=[seed], fractions=[0.5, 1.0], counts=[3], per_class=[1, 2, 3, 4], val_frac=0.0, seed=0)
    assert [share.word for share in made.shares] == ["n3", "0p5", "c3", "1"]
    assert [made.fraction(share.word) for share in made.shares] == [0.25, 0.5, 0.75, 1.0]
    (division,) = made.by_fold.values()
    chosen = division.subsets[seed, "c3"]
    assert Counter(cases.label[chosen]) == {"a": 6, "b": 6, "c": 6} and len(set(cases.unit_id[chosen])) == 9
    with pytest.raises(StudyError, match=r"5 training patients .* of each class, and class 'a' has 4"):
        Divisions.of(cases, seeds=[seed], fractions=[], counts=[], per_class=[1, 5], val_frac=0.0, seed=0)


def test_two_subsets_of_one_size_and_different_units_are_refused() -> None:
    """Nine of ten are of one class: a fifth of all is 18 and 2 of each, ten of each are as many."""
    cases = listed_cases(list(range(100)), ["a" if n % 10 else "b" for n in range(100)])
    with pytest.raises(StudyError, match=r"counts_per_class 10 and fraction 0.2 are both 20 training units, and not the same"):
        Divisions.of(cases, seeds=[0], fractions=[0.2], counts=[], per_class=[10], val_frac=0.0, seed=0)


def test_in_the_listed_order_the_first_of_each_class_are_taken() -> None:
    cases = listed_cases([30, 4, 17, 5], ["a", "a", "b", "b"])
    made = Divisions.of(cases, seeds=[3], fractions=[], counts=[], per_class=[1], val_frac=0.0, seed=9, listed=True)
    (division,) = made.by_fold.values()
    assert set(cases.unit_id[division.subsets[3, "c1"]]) == {"u1", "u3"}


@pytest.mark.parametrize(
    ("amount", "of", "units"), [(0.05, 10, 1), (0.05, 9, 0), (0.05, 30, 2), (0.1, 14, 1), (0.5, 7, 4), (1.0, 7, 7)]
)
def test_half_a_unit_is_a_unit(amount: float, of: int, units: int) -> None:
    assert Share("fraction", amount).units(of) == units
    assert Share("units", 3.0).units(of) == min(3, of) and Share("units", 3.0).fraction(of) == pytest.approx(min(3 / of, 1.0))


def listed_cases(order: list[int], classes: list[str]) -> Cases:
    """Two cases for each of the units `u0`, `u1`, …, which are labelled in some order; and a test case."""
    units = np.array([f"u{n}" for n in range(len(order)) for _ in range(2)] + ["t"], dtype=object)
    label = np.array([name for name in classes for _ in range(2)] + [classes[0]], dtype=object)
    names = sorted(set(classes))
    nothing = np.full(len(units), "", dtype=object)
    return Cases(
        case_id=np.array([f"c{n}" for n in range(len(units))], dtype=object),
        volume_id=nothing,
        unit_id=units,
        unit=nothing,
        split=np.array(["train"] * (len(units) - 1) + ["test"], dtype=object),
        label=label,
        classes=names,
        targets=np.array([[name == one for one in names] for name in label], dtype=np.uint8),
        content=nothing,
        truth=label,
        label_order=np.array([place for place in order for _ in range(2)] + [np.nan]),
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_in_the_listed_order_a_count_takes_the_first_of_the_list_whatever_the_seed(seed: int) -> None:
    cases = listed_cases([30, 4, 17, 5], ["ab"[n % 2] for n in (1, 0, 0, 1)])
    made = Divisions.of(cases, seeds=[seed], fractions=[1.0], counts=[2, 3], val_frac=0.0, seed=9, listed=True)
    (division,) = made.by_fold.values()
    assert division.orders[seed] == ["u1", "u3", "u2", "u0"]
    taken = {share: sorted(set(cases.unit_id[chosen])) for (_, share), chosen in division.subsets.items()}
    assert taken == {"n2": ["u1", "u3"], "n3": ["u1", "u2", "u3"], "1": ["u0", "u1", "u2", "u3"]}
    assert all(len(chosen) == 2 * len(taken[share]) for (_, share), chosen in division.subsets.items())


def test_in_the_listed_order_no_patient_is_added_for_a_missing_class() -> None:
    cases = listed_cases([1, 2, 3], ["a", "a", "b"])
    with pytest.raises(StudyError, match="first 2 of 3 training units in the order of the split file have no case of class 'b'"):
        Divisions.of(cases, seeds=[0], fractions=[], counts=[2, 3], val_frac=0.0, seed=0, listed=True)
    drawn = Divisions.of(cases, seeds=[0], fractions=[], counts=[2], val_frac=0.0, seed=0)
    (chosen,) = next(iter(drawn.by_fold.values())).subsets.values()
    assert "u2" in cases.unit_id[chosen], "a drawn subset covers the classes"


def test_a_source_without_an_order_cannot_be_labelled_in_one() -> None:
    cases = replace(listed_cases([1, 2], ["a", "b"]), label_order=None)
    with pytest.raises(StudyError, match="the split of the source lists no order"):
        Divisions.of(cases, seeds=[0], fractions=[1.0], counts=[], val_frac=0.0, seed=0, listed=True)
