"""Scores of a segmentation task: metrics per case and class, then means under unit weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64, Shaped

from medssl.core.errors import CorruptArtefactError
from medssl.evaluate.comparisons import Compared, Groups, Key
from medssl.evaluate.intervals import Replicates
from medssl.evaluate.sample import MACRO, Floats, by_unit, divide, rounded_difference
from medssl.evaluate.surface import Pair, pair

PairMetric = Callable[[Pair], float]


def score_case(
    prediction: Shaped[np.ndarray, "..."],
    target: Shaped[np.ndarray, "..."],
    classes: dict[int, str],
    spacing_mm: tuple[float, ...],
    metrics: dict[str, PairMetric],
) -> list[dict[str, object]]:
    """A row per class of one case; `empty` says which of the two masks lacks the class.

    Raises:
        CorruptArtefactError: the masks differ in shape.
    """
    if prediction.shape != target.shape:
        raise CorruptArtefactError(
            f"a predicted mask has shape {prediction.shape} and its target {target.shape}: both must lie on one grid. "
            "Run finetune again."
        )
    rows: list[dict[str, object]] = []
    for value, name in classes.items():
        masks = pair(prediction == value, target == value, spacing_mm)
        rows.append({"class": name, "empty": masks.empty or "neither", **{m: metric(masks) for m, metric in metrics.items()}})
    return rows


@dataclass(frozen=True)
class CaseScores:
    """Each fit's score of every case by metric and class, `(n,)`, NaN if undefined; weights `(1 + b + j, u)`.

    A comparison uses the cases whose score is defined in every fit of both arms, class by class. Otherwise an arm that fails on
    hard
    cases would be compared on its easy ones.
    """

    values: dict[str, dict[Key, Float64[np.ndarray, "n"]]]
    weights: Float64[np.ndarray, "r u"]
    unit: Int64[np.ndarray, "n"]
    num_bootstrap: int

    def scores(self, alike: list[list[str]]) -> dict[str, dict[Key, Replicates]]:
        """Weighted means of each fit over its own defined cases.

        alike: groups of fits whose means over classes use the same classes: those defined in every one of them.
        """
        result = {}
        for fits in alike:
            everywhere = {key for key in self._keys if all(np.isfinite(self.values[fit][key]).any() for fit in fits)}
            for fit in fits:
                result[fit] = self._means(self.values[fit], everywhere)
        return result

    def left_out(self, fits: list[str], alike: list[str]) -> dict[Key, str]:
        """What the means of these fits exclude, in words; `alike`: the fits that share their classes."""
        notes = {}
        for metric, name in self._keys:
            undefined = [int((~np.isfinite(self.values[fit][metric, name])).sum()) for fit in fits]
            least, most = min(undefined), max(undefined)
            if most:
                count = f"{most}" if least == most else f"{least} to {most}"
                notes[metric, name] = f"left out: {count} of {len(self.unit)} cases, undefined"
        for metric in dict.fromkeys(metric for metric, _ in self._keys):
            names = [name for kind, name in self._keys if kind == metric]
            without = [n for n in names if not all(np.isfinite(self.values[fit][metric, n]).any() for fit in alike)]
            if without and len(names) > 1:
                notes[metric, MACRO] = f"left out: {', '.join(without)}, undefined in a fit"
        return notes

    def compared(self, a: list[str], b: list[str]) -> dict[Key, Compared]:
        """The difference of two arms, each a list of fits, over the cases that are defined in all of them."""
        shared = self._differences(a, b)
        found = self._contrast(shared, [a], [b])
        return {key: replace(pair, note=self._unpaired(key, a, b, shared)) for key, pair in found.items()}

    def contrast(self, plus: Groups, minus: Groups) -> dict[Key, Compared]:
        """Means of some groups of fits minus those of others, over the cases that are defined in all of them."""
        sums = [{key: self._sum_of_means(key, groups) for key in self._keys} for groups in (plus, minus)]
        shared = {key: rounded_difference(sums[0][key], sums[1][key]) for key in self._keys}
        found = self._contrast(shared, plus, minus)
        return {key: replace(pair, note=self._undefined(key, shared)) for key, pair in found.items()}

    def _contrast(self, shared: dict[Key, Floats], plus: Groups, minus: Groups) -> dict[Key, Compared]:
        in_macro = {key for key in self._keys if np.isfinite(shared[key]).any()}
        of_plus, of_minus = ([fit for fits in groups for fit in fits] for groups in (plus, minus))
        plain = {fit: self._plain_means(fit, shared) for fit in (*of_plus, *of_minus)}
        differences = self._means(shared, in_macro)
        of_fits = self._means_of_fits(list(plain), shared, in_macro)
        return {
            key: Compared(
                difference,
                [plain[fit].get(key, np.nan) for fit in of_plus],
                [plain[fit].get(key, np.nan) for fit in of_minus],
                {fit: replace(one, num_units=difference.num_units) for fit, one in of_fits[key].items()},
            )
            for key, difference in differences.items()
        }

    def unit_differences(self, a: list[str], b: list[str]) -> dict[Key, Float64[np.ndarray, "u"]]:
        """The same per unit `(u,)`, NaN if a unit has no such case."""
        return {key: by_unit(values, self.unit, self.weights.shape[1]) for key, values in self._differences(a, b).items()}

    def within(
        self, inside: Bool[np.ndarray, "n"], weights: Float64[np.ndarray, "r u"], unit: Int64[np.ndarray, "inside"]
    ) -> CaseScores:
        """The scores of some cases; inside `(n,)`, with their units and weights."""
        values = {fit: {key: row[inside] for key, row in rows.items()} for fit, rows in self.values.items()}
        return CaseScores(values, weights, unit, self.num_bootstrap)

    @property
    def _keys(self) -> list[Key]:
        return list(next(iter(self.values.values())))

    def _differences(self, a: list[str], b: list[str]) -> dict[Key, Floats]:
        mean = {key: [np.mean([self.values[fit][key] for fit in fits], axis=0) for fits in (a, b)] for key in self._keys}
        return {key: rounded_difference(of_a, of_b) for key, (of_a, of_b) in mean.items()}

    def _sum_of_means(self, key: Key, groups: Groups) -> Floats:
        return np.sum([np.mean([self.values[fit][key] for fit in fits], axis=0) for fits in groups], axis=0)

    def _means(self, values: dict[Key, Floats], in_macro: set[Key]) -> dict[Key, Replicates]:
        """Weighted means of each metric and class, and over the classes `in_macro` if there are several."""
        result, units = {}, self.weights.shape[1]
        for metric in dict.fromkeys(metric for metric, _ in values):
            rows, known = {}, {}
            for name in (name for kind, name in values if kind == metric):
                row = values[metric, name]
                known[name] = np.isfinite(row)
                of_cases = self.weights[:, self.unit[known[name]]]
                rows[name] = divide(of_cases @ row[known[name]], of_cases.sum(axis=1))
            if len(rows) > 1:
                chosen = [name for name in rows if (metric, name) in in_macro]
                undefined = np.full(len(self.weights), np.nan)
                rows[MACRO] = np.mean([rows[name] for name in chosen], axis=0) if chosen else undefined
                known[MACRO] = np.any([known[name] for name in chosen], axis=0) if chosen else np.zeros(len(self.unit), bool)
            for name, row in rows.items():
                made = Replicates.of(row, self.num_bootstrap, units)
                result[metric, name] = replace(made, num_units=len(set(self.unit[known[name]].tolist())))
        return result

    def _means_of_fits(self, fits: list[str], shared: dict[Key, Floats], in_macro: set[Key]) -> dict[Key, dict[str, Replicates]]:
        """Weighted means of each fit over the cases that are defined in `shared`: as `_means`, all fits in one product."""
        rows: dict[Key, Floats] = {}
        for metric in dict.fromkeys(metric for metric, _ in shared):
            names = [name for kind, name in shared if kind == metric]
            for name in names:
                known = np.isfinite(shared[metric, name])
                of_cases = self.weights[:, self.unit[known]]
                values = np.stack([self.values[fit][metric, name][known] for fit in fits], axis=1)
                rows[metric, name] = divide(of_cases @ values, of_cases.sum(axis=1, keepdims=True))
            if len(names) > 1:
                chosen = [rows[metric, name] for name in names if (metric, name) in in_macro]
                undefined = np.full((len(self.weights), len(fits)), np.nan)
                rows[metric, MACRO] = np.mean(chosen, axis=0) if chosen else undefined
        units, drawn = self.weights.shape[1], self.num_bootstrap
        return {
            key: {fit: Replicates.of(row[:, place], drawn, units) for place, fit in enumerate(fits)} for key, row in rows.items()
        }

    def _plain_means(self, fit: str, shared: dict[Key, Floats]) -> dict[Key, float]:
        """Means of a fit over the cases that are defined in `shared`."""
        found: dict[Key, float] = {}
        for key in self._keys:
            known = np.isfinite(shared[key])
            if known.any():
                found[key] = float(self.values[fit][key][known].mean())
        for metric in dict.fromkeys(metric for metric, _ in found):
            found[metric, MACRO] = float(np.mean([value for (kind, _), value in found.items() if kind == metric]))
        return found

    def _undefined(self, key: Key, shared: dict[Key, Floats]) -> str:
        """What a contrast excludes, in words."""
        metric, name = key
        if name == MACRO:
            without = [n for kind, n in self._keys if kind == metric and not np.isfinite(shared[kind, n]).any()]
            return f"left out: {', '.join(without)}, undefined in a fit" if without else ""
        left_out = int((~np.isfinite(shared[key])).sum())
        return f"left out: {left_out} of {len(self.unit)} cases, undefined in a fit" if left_out else ""

    def _unpaired(self, key: Key, a: list[str], b: list[str], shared: dict[Key, Floats]) -> str:
        """How many cases a comparison excludes, and in which arm they are undefined."""
        metric, name = key
        if name == MACRO:
            without = [n for kind, n in self._keys if kind == metric and not np.isfinite(shared[kind, n]).any()]
            return f"left out: {', '.join(without)}, undefined in an arm" if without else ""
        left_out = int((~np.isfinite(shared[key])).sum())
        of_arms = [int(np.any([~np.isfinite(self.values[fit][key]) for fit in fits], axis=0).sum()) for fits in (a, b)]
        words = f"left out: {left_out} of {len(self.unit)} cases, undefined in the first ({of_arms[0]}) or second ({of_arms[1]})"
        return words if left_out else ""


def case_scores(tables: dict[str, pd.DataFrame], metrics: list[str]) -> dict[str, dict[Key, Float64[np.ndarray, "n"]]]:
    """By fit, metric and class, the scores of its cases `(n,)`, from a table of `score_case` rows per fit in case order."""
    return {
        fit: {
            (metric, str(name)): part[metric].to_numpy(np.float64)
            for metric in metrics
            for name, part in rows.groupby("class", sort=False)
        }
        for fit, rows in tables.items()
    }


def empty_counts(cases: pd.DataFrame) -> pd.DataFrame:
    """How many masks of each class were empty, by arm, mode and fraction (over all seeds)."""
    counts = cases.groupby(["arm", "mode", "fraction", "class", "empty"]).size().unstack("empty", fill_value=0)
    for name in ("neither", "both", "prediction", "target"):
        counts[name] = counts.get(name, 0)
    named = counts[["neither", "both", "prediction", "target"]].rename(
        columns={"neither": "both_hold", "both": "both_empty", "prediction": "missed", "target": "false_alarm"}
    )
    return named.reset_index().rename(columns={"arm": "init"})
