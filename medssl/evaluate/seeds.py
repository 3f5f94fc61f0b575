"""The seeds' contribution to an arm's interval: their spread beyond what the choice of test units explains.

Seeds and test units are crossed, as readers and cases are in a reading study: every seed is scored on every unit. A bootstrap of
three seeds has ten outcomes and two thirds of their variance, so its result is computed instead of drawn. The variance of the
mean over `R` seeds and all units is `MS / R + C`, with `MS` the variance of the seeds' scores (over `R − 1`) and `C` the
covariance of two seeds under the bootstrap of units (over `n − 1`).

Source: Obuchowski and Rockette, Commun Stat Simul Comput 24:285 (1995); Owen, Ann Appl Stat 1:386 (2007), on drawing both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medssl.evaluate.intervals import FEWEST_SEEDS, Replicates, Spread, mean_of
from medssl.evaluate.sample import ROUNDING

BySeed = dict[int, Replicates]
"""A score, or its fall, for each seed."""


@dataclass(frozen=True)
class SeedsOfArm:
    """The seeds of an arm: for each the ids of its fits, and their fine-tuning seeds.

    A seed is a pre-training seed with all its fits, or a draw of scratch. For an arm with only one start (given weights, scratch
    drawn with each fit) it is a fine-tuning seed. Fine-tuning seeds that all pre-training seeds share are averaged within.
    """

    arm: str
    fits: dict[int, list[str]]
    tuned_by: dict[int, frozenset[int]]

    @classmethod
    def of(cls, arm: str, fits: pd.DataFrame) -> SeedsOfArm:
        """The seeds in the rows of an arm in one mode, of one share of labels or of several."""
        seed = fits["pretrain_seed"].fillna(fits["seed"]).astype(int)
        parts = {int(str(number)): part for number, part in fits.groupby(seed, sort=True)}
        return cls(
            arm,
            {number: list(part["fit_id"]) for number, part in parts.items()},
            {number: frozenset(map(int, part["seed"])) for number, part in parts.items()},
        )

    def partners(self, other: SeedsOfArm) -> dict[int, int] | None:
        """By seed, the other arm's seed with the same fine-tuning seeds, if each has its own.

        Two such fits have the same labelled subset, order of batches and head: they are paired. Others share at most all of their
        fine-tuning seeds, which cancel, and are independent.
        """
        there = {tuned: number for number, tuned in other.tuned_by.items()}
        here = {tuned: number for number, tuned in self.tuned_by.items()}
        alone = len(there) == len(other.fits) and len(here) == len(self.fits)
        return {number: there[tuned] for tuned, number in here.items()} if alone and set(here) == set(there) else None


def spread_of(seeds: Sequence[Replicates]) -> Spread | None:
    """The spread of some seeds' scores; None for fewer than three, or if one is undefined."""
    values = np.array([seed.value for seed in seeds])
    if len(seeds) < FEWEST_SEEDS or not np.isfinite(values).all():
        return None
    drawn = np.stack([seed.bootstrap for seed in seeds])
    drawn = drawn[:, np.isfinite(drawn).all(axis=0)]
    num_units, num = min(seed.num_units for seed in seeds), len(seeds)
    if drawn.shape[1] < 2 or num_units < 2:
        return None
    covariance = np.cov(drawn) * num_units / (num_units - 1)
    own = float(np.trace(covariance)) / num
    shared = (float(covariance.sum()) - num * own) / (num * (num - 1))
    alike = np.ptp(values) <= ROUNDING * max(1.0, float(np.abs(values).max()))
    variance = 0.0 if alike else float(values.var(ddof=1)) / num
    return Spread(num, variance, max(0.0, own - shared) / num, num - 1.0)


def means_by_seed(seeds: SeedsOfArm, of_fits: dict[str, Replicates]) -> BySeed:
    """By seed, the mean of its fits."""
    return {number: mean_of([of_fits[fit] for fit in fits]) for number, fits in seeds.fits.items()}


def falls_by_seed(most: SeedsOfArm, fewest: SeedsOfArm, of_fits: dict[str, Replicates]) -> BySeed | None:
    """By seed, its mean with the most labels minus that with the fewest; None if the two have different seeds."""
    if set(most.fits) != set(fewest.fits):
        return None
    of_most, of_fewest = (means_by_seed(seeds, of_fits) for seeds in (most, fewest))
    return {number: of_most[number] - of_fewest[number] for number in of_most}


def spread_of_difference(a: SeedsOfArm, b: SeedsOfArm, of_a: BySeed | None, of_b: BySeed | None) -> tuple[Spread | None, str]:
    """The spread of the seeds of two arms in their difference, and what it excludes in words.

    Seeds are paired by `SeedsOfArm.partners`. An arm with fewer than three adds none: then the interval includes only the other's
    seeds, and says so.
    """
    partners = a.partners(b)
    if of_a is not None and of_b is not None and partners is not None:
        return spread_of([of_a[number] - of_b[partner] for number, partner in partners.items()]), ""
    spreads = {arm.arm: None if seeds is None else spread_of(list(seeds.values())) for arm, seeds in ((a, of_a), (b, of_b))}
    known = [spread for spread in spreads.values() if spread is not None]
    without = [arm for arm, spread in spreads.items() if spread is None]
    if not known:
        return None, ""
    note = "".join(f"without the spread over seeds of {arm}: fewer than {FEWEST_SEEDS}" for arm in without)
    return (known[0] if len(known) == 1 else known[0] + known[1]), note
