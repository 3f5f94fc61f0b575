"""Units (patients) are divided by exact counts, evenly over strata; a unit's part depends on seed and id alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from medssl.core.errors import StudyError
from medssl.core.rng import ids_to_keys, key, uniforms

PARTS = ("train", "val", "test")


def strata_of(
    unit_ids: Sequence[str], *, labels: Sequence[str | None] | None = None, modalities: Sequence[str] | None = None
) -> dict[str, str]:
    """The stratum of each unit, from its rows: all its modalities, and the rarest of its labels (by units)."""
    nothing = [None] * len(unit_ids)
    held: dict[str, tuple[set[str], set[str]]] = {}
    for unit, label, modality in zip(unit_ids, labels or nothing, modalities or nothing, strict=True):
        own_labels, own_modalities = held.setdefault(unit, (set(), set()))
        own_labels.update([label] if label is not None else [])
        own_modalities.update([modality] if modality is not None else [])
    number = Counter(label for own, _ in held.values() for label in own)
    return {
        unit: "\x1f".join([*sorted(modalities_), min(own, key=lambda name: (number[name], name), default="")])
        for unit, (own, modalities_) in sorted(held.items())
    }


def dealt_out(strata: Mapping[str, str], counts: Mapping[str, int], draw: Mapping[str, float]) -> dict[str, str]:
    """The part of each unit: exactly `counts` units for each part it names, evenly over the strata; the rest is `train`.

    A stratum's units are sorted by their own draws and the first part takes the first units, so a new unit moves few others.
    Each stratum's count of a part is its exact share, rounded down or up by the largest remainder. Between equal ones the draws
    decide, not the names: else strata of one unit each, such as ages, would be dealt out in the order of their names.
    """
    members = _members(strata, draw)
    left = {name: len(units) for name, units in members.items()}
    first = {name: draw[units[0]] for name, units in members.items()}
    part: dict[str, str] = {}
    for what, count in counts.items():
        taken = _by_largest_remainder({name: len(units) for name, units in members.items()}, left, count, first)
        for name, units in members.items():
            start = len(units) - left[name]
            part |= dict.fromkeys(units[start : start + taken[name]], what)
            left[name] -= taken[name]
    return {unit: part.get(unit, "train") for unit in strata}


def folds_of(strata: Mapping[str, str], num_folds: int, draw: Mapping[str, float]) -> dict[str, int]:
    """The fold of each unit, 0 … `num_folds` − 1. Fold sizes differ by at most one unit, overall and within each stratum.

    A fold takes consecutive units of a stratum in the order of their draws, so a new unit moves few others.
    """
    fold: dict[str, int] = {}
    turn = 0
    for units in _members(strata, draw).values():
        each, odd = divmod(len(units), num_folds)
        larger = {(turn + extra) % num_folds for extra in range(odd)}
        turn += odd
        start = 0
        for number in range(num_folds):
            stop = start + each + (number in larger)
            fold |= dict.fromkeys(units[start:stop], number)
            start = stop
    return fold


def parts_of_fold(
    unit_ids: Sequence[str],
    folds: Sequence[int],
    fold: int,
    *,
    val_frac: float,
    seed: int,
    labels: Sequence[str | None] | None = None,
    modalities: Sequence[str] | None = None,
) -> np.ndarray:
    """The part of each row `(n,)` when `fold` is tested: `test` inside it; an exact share of the units outside it is `val`.

    Args:
        unit_ids: what must stay together, of each row.
        folds: of each row, as stage prepare drew them.
        val_frac: share of the units outside the fold.
        labels, modalities: of each row; the validation part is drawn evenly over them.

    Raises:
        StudyError: nothing is left to train on.
    """
    outside = [place for place, of_row in enumerate(folds) if of_row != fold]
    strata = strata_of(
        [unit_ids[place] for place in outside],
        labels=None if labels is None else [labels[place] for place in outside],
        modalities=None if modalities is None else [modalities[place] for place in outside],
    )
    count = round(val_frac * len(strata))
    if count >= len(strata):
        raise StudyError(
            f"fold {fold}: val_frac {val_frac} of the {len(strata)} units outside it is {count}, and nothing is left to train "
            "on. Lower prepare.split.val_frac."
        )
    part = dealt_out(strata, {"val": count}, unit_draws(list(strata), seed, "fold", fold))
    parts = np.full(len(folds), "test", dtype=object)
    parts[outside] = [part[unit_ids[place]] for place in outside]
    return parts


def unit_draws(unit_ids: Sequence[str], seed: int, *names: str | int) -> dict[str, float]:
    """A number in [0, 1) for each id, from the seed, the names and the id alone."""
    ids = list(unit_ids)
    return dict(zip(ids, uniforms(key(seed, *names), ids_to_keys(ids), 1)[:, 0].tolist(), strict=True))


def _members(strata: Mapping[str, str], draw: Mapping[str, float]) -> dict[str, list[str]]:
    """The units of each stratum in the order of their draws; strata by name."""
    members: dict[str, list[str]] = {name: [] for name in sorted(set(strata.values()))}
    for unit in sorted(strata, key=lambda one: (draw[one], one)):
        members[strata[unit]].append(unit)
    return members


def _by_largest_remainder(
    sizes: Mapping[str, int], room: Mapping[str, int], count: int, draw: Mapping[str, float]
) -> dict[str, int]:
    """`count` divided in proportion to `sizes`, never more than the `room`.

    What is left goes to the largest remainders; of equal ones to those with most room left, then to those with the lowest `draw`.
    """
    total = sum(sizes.values())
    share = {name: min(count * size // total, room[name]) for name, size in sizes.items()}
    order = sorted(sizes, key=lambda name: (-(count * sizes[name] % total), share[name] - room[name], draw[name], name))
    while (missing := count - sum(share.values())) > 0:
        for name in [one for one in order if share[one] < room[one]][:missing]:
            share[name] += 1
    return share
