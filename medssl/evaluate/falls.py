"""The loss of each arm from the most labels to the fewest, and the difference of two arms' losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.comparisons import Compared, Groups, Key, corrected, deviation, joined
from medssl.evaluate.intervals import Interval, Replicates, interval
from medssl.evaluate.predictions import Tested
from medssl.evaluate.seeds import SeedsOfArm, falls_by_seed, spread_of, spread_of_difference

Contrast = Callable[[Groups, Groups], dict[Key, Compared]]
"""Means of some groups of fits minus those of others, on the same cases."""


@dataclass(frozen=True)
class Falls:
    """How falls are measured: most labels minus fewest, on the same test cases and the same draws of them.

    better: by metric, whether `higher` or `lower` values are better; seeds_beside: intervals are over units alone.
    """

    test: Tested
    contrast: Contrast
    confidence: float
    better: dict[str, str]
    seeds_beside: bool = False

    def rows(self) -> pd.DataFrame:
        """`falls.tsv`: a row per arm, mode, metric and class; modes with one share of labels have no row."""
        rows: list[dict[str, Any]] = []
        for place, by_arm in self._modes():
            for arm, ends in by_arm.items():
                most, fewest = ends.fits
                for (metric, label), pair in self.contrast([most], [fewest]).items():
                    by_seed = falls_by_seed(*ends.seeds, pair.of_fits)
                    spread = None if self.seeds_beside or by_seed is None else spread_of(list(by_seed.values()))
                    fall = self._oriented(metric, pair.difference)
                    found = interval(fall, self.confidence, spread)
                    seeds = [one.value for one in (by_seed or {}).values()]
                    rows.append(
                        {"init": arm, **place, "metric": metric, "class": label, "better": self.better[metric]}
                        | {"score_most": float(np.mean(pair.a)), "score_fewest": float(np.mean(pair.b))}
                        | {"fall": found.estimate, "low": found.low, "high": found.high, "confidence": self.confidence}
                        | {"n": fall.num_units, "n_rarer": fall.num_rarer, "unit": self.test.unit_kind}
                        | {"num_seeds": len(seeds), "seed_sd": deviation(seeds), "seeds_in_interval": found.num_seeds}
                        | {"method": found.method, "note": joined(found.note, pair.note)}
                    )
        return pd.DataFrame(rows).astype({"n_rarer": "Int64"}) if rows else pd.DataFrame()

    def comparison_rows(self, pairs_of_mode: Callable[[list[str]], list[tuple[str, str, str]]], holm_over: str) -> pd.DataFrame:
        """`fall_comparisons.tsv`: the fall of `a` minus that of `b`, by paired bootstrap.

        pairs_of_mode: for the arms of a mode, the pairs to compare with their family of Holm's correction; the correction covers
        a
        mode, or the whole task.
        """
        rows: list[dict[str, Any]] = []
        for place, by_arm in self._modes():
            for a, b, reference in pairs_of_mode(list(by_arm)):
                (most_a, fewest_a), (most_b, fewest_b) = by_arm[a].fits, by_arm[b].fits
                for (metric, label), pair in self.contrast([most_a, fewest_b], [fewest_a, most_b]).items():
                    of_arms = [falls_by_seed(*by_arm[arm].seeds, pair.of_fits) for arm in (a, b)]
                    first, second = by_arm[a].seeds[0], by_arm[b].seeds[0]
                    spread, without = (None, "") if self.seeds_beside else spread_of_difference(first, second, *of_arms)
                    difference = self._oriented(metric, pair.difference)
                    found = interval(difference, self.confidence, spread)
                    rows.append(
                        {"a": a, "b": b, "reference": reference, **place, "metric": metric, "class": label}
                        | {"better": self.better[metric], **_numbers(found)}
                        | {"n": difference.num_units, "n_rarer": difference.num_rarer, "unit": self.test.unit_kind}
                        | {"confidence": self.confidence}
                        | {"note": joined(found.note, pair.note, without if found.num_seeds else "")}
                    )
        if not rows:
            return pd.DataFrame()
        table = pd.DataFrame(rows)
        table.insert(list(table).index("p") + 1, "p_holm", corrected(table, ["mode"] if holm_over == "arms" else []))
        return table.drop(columns="reference").astype({"n_rarer": "Int64"})

    def _modes(self) -> list[tuple[dict[str, Any], dict[str, _Ends]]]:
        """By mode with several shares of labels: the fewest and the most, and the arms that have fits with both."""
        found = []
        for mode, fits in self.test.fits.groupby("mode", sort=True):
            fewest, most = float(fits["fraction"].min()), float(fits["fraction"].max())
            if fewest < most:
                place = {"mode": mode, "fraction_most": most, "fraction_fewest": fewest}
                arms = {str(arm): _ends(str(arm), part, (most, fewest)) for arm, part in fits.groupby("arm", sort=True)}
                found.append((place, {arm: ends for arm, ends in arms.items() if ends is not None}))
        return found

    def _oriented(self, metric: str, difference: Replicates) -> Replicates:
        """The difference with the sign that makes a loss positive."""
        return difference if self.better[metric] == "higher" else -difference


@dataclass(frozen=True)
class _Ends:
    """An arm's fits and seeds, with the most labels and with the fewest."""

    fits: tuple[list[str], list[str]]
    seeds: tuple[SeedsOfArm, SeedsOfArm]


def _ends(arm: str, fits: pd.DataFrame, shares: Sequence[float]) -> _Ends | None:
    most, fewest = (fits[fits["fraction"] == share] for share in shares)
    if most.empty or fewest.empty:
        return None
    ids = list(most["fit_id"]), list(fewest["fit_id"])
    return _Ends(ids, (SeedsOfArm.of(arm, most), SeedsOfArm.of(arm, fewest)))


def _numbers(found: Interval) -> dict[str, Any]:
    numbers = {"difference": found.estimate, "low": found.low, "high": found.high, "p": found.p}
    return numbers | {"method": f"bootstrap ({found.method})", "seeds_in_interval": found.num_seeds}
