"""Nested training subsets: the 5 % is inside the 10 %, drawn by unit and class, the same on every machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from medssl.artefacts.names import ShareKind, share_word
from medssl.core.errors import StudyError
from medssl.core.rng import ids_to_keys, key, uniforms


@dataclass(frozen=True, order=True)
class Share:
    """How much of the training units a subset takes: a fraction of all, a number of units, or a number of each class."""

    kind: ShareKind
    amount: float
    taken: int = 0
    """for a number of each class: how many units these are"""

    @property
    def word(self) -> str:
        """Its word in ids of fits: `0p05` for 5 %, `n8` for eight units, `c8` for eight of each class."""
        return share_word(self.amount, self.kind)

    def fraction(self, num_units: int) -> float:
        """As a fraction of `num_units`."""
        return self.amount if self.kind == "fraction" else self.units(num_units) / num_units

    def units(self, num_units: int) -> int:
        """As a number of units out of `num_units`; halves round up."""
        if self.kind == "fraction":
            return int(np.floor(self.amount * num_units + 0.5))
        return int(min(self.taken or self.amount, num_units))


def shares_of(
    fractions: Sequence[float], counts: Sequence[int], num_units: int, per_class: Mapping[int, int] | None = None
) -> list[Share]:
    """The distinct shares, by size; a count that equals a requested fraction is dropped.

    per_class: by number of units of each class, how many units these are.
    """
    found = {fraction: Share("fraction", float(fraction)) for fraction in fractions}
    counted = [Share("units", float(count)) for count in counts]
    counted += [Share("per_class", float(count), taken) for count, taken in (per_class or {}).items()]
    for share in counted:
        found.setdefault(share.fraction(num_units), share)
    return [found[fraction] for fraction in sorted(found)]


def unit_order(units: Sequence[str], classes: Sequence[frozenset[str]], seed: int) -> tuple[list[str], int]:
    """The order in which units (patients, or images without one) enter the training subsets.

    Every subset is a prefix of this order, so subsets are nested by construction. The order starts with a cover, which has each
    class at least once. The rest is spread evenly within the classes, so that a prefix has the classes in their own proportions.
    The place of a unit depends on its id, its classes and the seed.

    Args:
        units: unit id of each case `(n,)`; a unit may have many cases.
        classes: the class names of each case `(n,)`.
        seed: the seed of the fit.

    Returns:
        the distinct unit ids in order, and how many of the first ones form the cover.
    """
    held = classes_of_units(units, classes)
    ids = sorted(held)
    draw = dict(zip(ids, uniforms(key(seed, "subset"), ids_to_keys(ids), 1)[:, 0].tolist(), strict=True))
    frequency = Counter(name for names in held.values() for name in names)
    rarest_first = sorted(frequency, key=lambda name: (frequency[name], name))
    cover: list[str] = []
    for name in rarest_first:
        if not any(name in held[unit] for unit in cover):
            cover.append(min((unit for unit in ids if name in held[unit]), key=draw.__getitem__))
    place = {name: position for position, name in enumerate(rarest_first)}
    strata: dict[str, list[str]] = {}
    for unit in ids:
        strata.setdefault(min(held[unit], key=place.__getitem__, default=""), []).append(unit)
    quantile: dict[str, Fraction] = {}
    for members in strata.values():
        members.sort(key=lambda unit: (unit not in cover, draw[unit]))
        # exact fractions: equal shares of two classes must tie, then the draw decides
        quantile |= {unit: Fraction(2 * rank + 1, 2 * len(members)) for rank, unit in enumerate(members)}
    order = sorted(ids, key=lambda unit: (unit not in cover, quantile[unit], draw[unit]))
    return order, len(cover)


def classes_of_units(units: Sequence[str], classes: Sequence[frozenset[str]]) -> dict[str, set[str]]:
    """The classes of each unit, by the unit and the classes of each case `(n,)`."""
    held: dict[str, set[str]] = {}
    for unit, names in zip(units, classes, strict=True):
        held.setdefault(unit, set()).update(names)
    return held


def listed_order(units: Sequence[str], places: Sequence[float]) -> list[str]:
    """The distinct units in the order that the split file lists.

    Args:
        units: unit id of each case `(n,)`.
        places: of each case's unit `(n,)`.
    """
    place = dict(zip(units, places, strict=True))
    return sorted(place, key=place.__getitem__)


def subset(order: Sequence[str], num_cover: int, share: Share) -> list[str]:
    """The units of one training subset, at least the cover, so that each class has a unit."""
    return list(order[: max(share.units(len(order)), num_cover, 1)])


def first_of_each_class(order: Sequence[str], held: Mapping[str, Set[str]], classes: Sequence[str], count: int) -> list[str]:
    """The first units of each class in an order. A unit of several classes is among the first of each of them.

    Args:
        order: distinct unit ids.
        held: the classes of each unit.
        classes: all of them.
        count: how many of each class; smaller counts lie inside larger ones.

    Raises:
        StudyError: a class has fewer.
    """
    seen = Counter(dict.fromkeys(classes, 0))
    chosen = []
    for unit in order:
        if any(seen[name] < count for name in held[unit]):
            chosen.append(unit)
        seen.update(held[unit])
    fewest = min(seen, key=lambda name: (seen[name], name))
    if seen[fewest] < count:
        raise StudyError(
            f"finetune.counts_per_class asks for {count} training patients (images, without patients) of each class, and class "
            f"{fewest!r} has {seen[fewest]}. Lower it, or label more of {fewest!r}."
        )
    return chosen
