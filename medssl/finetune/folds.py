"""Which cases train, choose and test: the split of stage prepare, or each fold in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medssl.core.errors import StudyError
from medssl.core.partition import parts_of_fold
from medssl.finetune.cases import Cases
from medssl.finetune.subsets import Share, listed_order, shares_of, subset, unit_order


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
        listed: bool = False,
    ) -> Divisions:
        """The divisions of some cases.

        Args:
            cases: in the parts from stage prepare, or with a fold each.
            seeds: of the label subsets.
            fractions, counts: of training units whose labels are used.
            val_frac: share of the units outside a fold that is its validation part.
            seed: of the study.
            listed: training units enter in the order of the split file, not as drawn.

        Raises:
            StudyError: a fold has no cases to train on; the split file has no order, or a subset in its order lacks a class.
        """
        divided = {fold: _in_fold(cases, fold, val_frac, seed) for fold in _folds(cases)}
        first = next(iter(divided.values()))
        shares = shares_of(fractions, counts, len(set(first.unit_id[first.where("train")])))
        return cls({fold: _division(fold, part, seeds, shares, listed) for fold, part in divided.items()}, shares)

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


def _division(fold: int | None, cases: Cases, seeds: Sequence[int], shares: Sequence[Share], listed: bool) -> Division:
    train = cases.where("train")
    units, classes = list(cases.unit_id[train]), cases.class_sets(train)
    if listed:
        order = _listed_order(cases, train)
        drawn = dict.fromkeys(seeds, (order, 0))
        _require_all_classes(order, units, classes, shares)
    else:
        drawn = {seed: unit_order(units, classes, seed) for seed in seeds}
    subsets = {
        (seed, share.word): cases.of_units(subset(order, num_cover, share))
        for seed, (order, num_cover) in drawn.items()
        for share in shares
    }
    return Division(fold, cases, {seed: order for seed, (order, _) in drawn.items()}, subsets)


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


def _require_all_classes(
    order: Sequence[str], units: Sequence[str], classes: Sequence[frozenset[str]], shares: Sequence[Share]
) -> None:
    """Require every class in every subset: a fit cannot predict an unseen class, and the listed order allows no replacement.

    Raises:
        StudyError: a subset lacks one.
    """
    every = frozenset().union(*classes)
    for share in shares:
        chosen = set(subset(order, 0, share))
        lacking = every - frozenset().union(*(names for unit, names in zip(units, classes, strict=True) if unit in chosen))
        if lacking:
            raise StudyError(
                f"finetune.label_order: the first {len(chosen)} of {len(order)} training units in the order of the split file "
                f"have no case of class {min(lacking)!r}. Ask for more of them, correct the order, or set label_order to drawn."
            )
