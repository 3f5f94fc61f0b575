"""Which cases train, choose and test: the split of stage prepare, or each fold in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medssl.core.errors import StudyError
from medssl.core.partition import parts_of_fold
from medssl.finetune.cases import Cases
from medssl.finetune.subsets import (
    Share,
    classes_of_units,
    first_of_each_class,
    listed_order,
    shares_of,
    subset,
    unit_order,
)


@dataclass(frozen=True)
class Division:
    """One division of the cases, and the nested subsets of its training part.

    Args:
        fold: which cases test; None if prepare split the source once.
        cases: in the parts of this division.
        orders: seed → unit ids of the training part in the order in which they enter.
        subsets: (seed, word of the share) → indices of the training cases.
    """

    fold: int | None
    cases: Cases
    orders: dict[int, list[str]]
    subsets: dict[tuple[int, str], np.ndarray]

    @property
    def num_units(self) -> int:
        """The number of training units."""
        return len(next(iter(self.orders.values())))


@dataclass(frozen=True)
class Divisions:
    """All divisions of a task's cases; shares of labels are the same in each."""

    by_fold: dict[int | None, Division]
    shares: list[Share]

    @classmethod
    def of(
        cls,
        cases: Cases,
        *,
        seeds: Sequence[int],
        fractions: Sequence[float],
        counts: Sequence[int],
        val_frac: float,
        seed: int,
        per_class: Sequence[int] = (),
        listed: bool = False,
    ) -> Divisions:
        """The divisions of some cases.

        Args:
            cases: in the parts from stage prepare, or with a fold each.
            seeds: of the label subsets.
            fractions, counts: of training units whose labels are used.
            val_frac: share of the units outside a fold that is its validation part.
            seed: of the study.
            per_class: numbers of training units of each class, likewise.
            listed: training units enter in the order of the split file, not as drawn.

        Raises:
            StudyError: a fold has no cases to train on; the split file has no order, or a subset in its order lacks a class; a
                class has fewer units than asked for; a number of each class and another share are as many units, not the same.
        """
        divided = {fold: _in_fold(cases, fold, val_frac, seed) for fold in _folds(cases)}
        drawn = {fold: _orders(part, seeds, listed) for fold, part in divided.items()}
        first = next(iter(divided))
        (order, cover), held = drawn[first][seeds[0]], _held(divided[first])
        of_each = {count: first_of_each_class(order, held, cases.classes, count) for count in sorted(per_class)}
        shares = shares_of(fractions, counts, len(order), {count: len(units) for count, units in of_each.items()})
        for count, units in of_each.items():
            twin = next(share for share in shares if share.units(len(order)) == len(units))
            if twin.kind != "per_class" and set(subset(order, cover, twin)) != set(units):
                raise StudyError(
                    f"finetune: counts_per_class {count} and {twin.kind} {twin.amount:g} are both {len(units)} training units, "
                    "and not the same ones. Tables name subsets by their number: change one of them, or set fractions: []."
                )
        return cls({fold: _division(fold, part, drawn[fold], shares, listed) for fold, part in divided.items()}, shares)

    @property
    def folds(self) -> list[int | None]:
        """The folds, or only None."""
        return list(self.by_fold)

    def share(self, word: str) -> Share:
        """The share in a fit's id."""
        return next(share for share in self.shares if share.word == word)

    def fraction(self, word: str) -> float:
        """A share as a fraction of the training units; one number for all folds, which may differ by a unit."""
        return self.share(word).fraction(next(iter(self.by_fold.values())).num_units)


def _folds(cases: Cases) -> list[int | None]:
    if cases.fold is None:
        return [None]
    return [*sorted({int(fold) for fold in cases.fold})]


def _in_fold(cases: Cases, fold: int | None, val_frac: float, seed: int) -> Cases:
    """The cases with a fold as the test part, and the other units divided into validation and training."""
    if fold is None or cases.fold is None:
        return cases
    split = parts_of_fold(list(cases.unit_id), cases.fold.tolist(), fold, val_frac=val_frac, seed=seed, labels=cases.strata)
    return cases.with_split(split)


Drawn = dict[int, tuple[list[str], int]]
"""By seed, the order of the training units, and how many of the first ones cover the classes."""


def _orders(cases: Cases, seeds: Sequence[int], listed: bool) -> Drawn:
    train = cases.where("train")
    if listed:
        return dict.fromkeys(seeds, (_listed_order(cases, train), 0))
    units, classes = list(cases.unit_id[train]), cases.class_sets(train)
    return {seed: unit_order(units, classes, seed) for seed in seeds}


def _held(cases: Cases) -> dict[str, set[str]]:
    """The classes of each training unit."""
    train = cases.where("train")
    return classes_of_units(list(cases.unit_id[train]), cases.class_sets(train))


def _division(fold: int | None, cases: Cases, drawn: Drawn, shares: Sequence[Share], listed: bool) -> Division:
    held = _held(cases)
    if listed:
        _require_all_classes(next(iter(drawn.values()))[0], held, shares)
    subsets = {
        (seed, share.word): cases.of_units(_chosen(order, num_cover, held, cases.classes, share))
        for seed, (order, num_cover) in drawn.items()
        for share in shares
    }
    return Division(fold, cases, {seed: order for seed, (order, _) in drawn.items()}, subsets)


def _chosen(order: list[str], num_cover: int, held: dict[str, set[str]], classes: list[str], share: Share) -> list[str]:
    """The units of one training subset."""
    if share.kind == "per_class":
        return first_of_each_class(order, held, classes, int(share.amount))
    return subset(order, num_cover, share)


def _listed_order(cases: Cases, train: np.ndarray) -> list[str]:
    """The training units in the order of the split file.

    Raises:
        StudyError: it has none.
    """
    if cases.label_order is None:
        raise StudyError(
            "finetune.label_order is listed, and the split of the source lists no order. Give prepare.split.file a third column "
            "`order` with a whole number for every training id, or set label_order to drawn."
        )
    return listed_order(list(cases.unit_id[train]), cases.label_order[train].tolist())


def _require_all_classes(order: list[str], held: dict[str, set[str]], shares: Sequence[Share]) -> None:
    """Require every class in every subset: a fit cannot predict an unseen class, and the listed order allows no replacement.

    Raises:
        StudyError: a subset lacks one.
    """
    every = set[str]().union(*held.values())
    for share in shares:
        chosen = _chosen(order, 0, held, sorted(every), share)
        lacking = every - set[str]().union(*(held[unit] for unit in chosen))
        if lacking:
            raise StudyError(
                f"finetune.label_order: the first {len(chosen)} of {len(order)} training units in the order of the split file "
                f"have no case of class {min(lacking)!r}. Ask for more of them, correct the order, or set label_order to drawn."
            )
