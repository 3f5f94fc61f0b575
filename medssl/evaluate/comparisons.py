"""Scores with intervals, and paired comparisons of arms, from the replicates of their fits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from medssl.artefacts.names import Arm, arm_and_seed, asked_pairs, is_scratch
from medssl.evaluate.delong import delong
from medssl.evaluate.intervals import Interval, Limits, Replicates, interval, mean_of
from medssl.evaluate.predictions import Tested
from medssl.evaluate.seeds import SeedsOfArm, means_by_seed, spread_of, spread_of_difference
from medssl.evaluate.signed_ranks import holm, signed_ranks

Key = tuple[str, str]
"""A metric and a class."""

Groups = Sequence[list[str]]
"""Groups of fits; each group's mean counts as one."""

Network = tuple[str, int]
"""A backbone and its number of parameters."""

ASKED = "\0asked"
"""Used as the reference of all pairs that a study asks for, which form one family."""

THESE_SEEDS = "of these seeds alone"
"""What tests over units alone note if the bootstrap includes the seeds."""

Scores = dict[str, dict[Key, Replicates]]
"""By fit, then by metric and class."""

LeftOut = Callable[[list[str]], dict[Key, str]]
"""What the scores of some fits exclude, in words."""


@dataclass(frozen=True)
class Compared:
    """A score of two arms on the same cases: the difference of their means over fits, each fit's value and replicates, and what
    was
    excluded.
    """

    difference: Replicates
    a: list[float]
    b: list[float]
    of_fits: dict[str, Replicates]
    note: str = ""


COLUMNS = [
    "a",
    "b",
    "mode",
    "fraction",
    "metric",
    "class",
    "better",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "p_holm_task",
    "n",
    "n_rarer",
    "unit",
    "method",
    "effect",
    "effect_name",
    "num_seeds",
    "seed_sd",
    "seeds_in_interval",
    "seeds_above",
    "confidence",
    "note",
]


def score_rows(
    test: Tested,
    scores: Scores,
    confidence: float,
    better: dict[str, str],
    limits: dict[str, Limits],
    left_out: LeftOut = lambda fits: {},
    seeds_beside: bool = False,
) -> pd.DataFrame:
    """`scores.tsv`: the mean over seeds of each metric and class with its interval over units, and over seeds if there are three.

    better: by metric, whether `higher` or `lower` values are better.
    limits: by metric, the smallest and largest value that it can have: its intervals end there.
    left_out: what the scores of some fits exclude, in words.
    seeds_beside: intervals are over units alone, however many seeds there are.
    """
    rows = []
    for (arm, mode, fraction), fits in test.fits.groupby(["arm", "mode", "fraction"], sort=True):
        notes, by_seed = left_out(list(fits["fit_id"])), SeedsOfArm.of(str(arm), fits)
        for metric, label in scores[fits["fit_id"].iloc[0]]:
            of_fits = {fit: scores[fit][metric, label] for fit in fits["fit_id"]}
            seeds = list(of_fits.values())
            mean = mean_of(seeds)
            spread = None if seeds_beside else spread_of(list(means_by_seed(by_seed, of_fits).values()))
            found = interval(mean, confidence, spread).within(limits[metric])
            rows.append(
                {"init": arm, "mode": mode, "fraction": fraction, "metric": metric, "class": label, "better": better[metric]}
                | {"estimate": found.estimate, "low": found.low, "high": found.high, "confidence": confidence}
                | {"n": mean.num_units, "n_rarer": mean.num_rarer, "unit": test.unit_kind, "num_cases": len(test.cases)}
                | {"num_seeds": len(seeds), "seed_sd": deviation([seed.value for seed in seeds])}
                | {"seeds_in_interval": found.num_seeds}
                | {"method": found.method, "note": joined(found.note, notes.get((metric, label), ""))}
            )
    return pd.DataFrame(rows).astype({"n_rarer": "Int64"}) if rows else pd.DataFrame()


def pairs_of(
    arms: list[str],
    controls: dict[str, list[str]] | None = None,
    networks: dict[str, Network] | None = None,
    whole: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """Which arms are compared: each with scratch, each reduction (`simclr-hash`) with its objective's `simclr-all`, and with
    the controls that keep as many slices (`simclr-random_n`).

    controls: by reduction, the reductions that match its count; whole: the reductions that keep every slice.
    networks: the network of each arm, if known; of several scratches an arm is compared with the one of its own network.
    """
    networks = networks or {}
    scratches = [arm for arm in arms if is_scratch(arm)]
    pairs = []
    for arm in (arm for arm in arms if not is_scratch(arm)):
        own = [scratch for scratch in scratches if networks.get(scratch) == networks.get(arm)]
        pairs += [(arm, scratch) for scratch in own[:1]]
    for arm in (arm for arm in arms if not is_scratch(arm)):
        of_run = Arm.parse(arm)
        names = [*whole, *(controls or {}).get(of_run.reduction, [])] if of_run.is_run else []
        references = [str(Arm(of_run.name, reduction=name)) for name in names]
        pairs += [(arm, reference) for reference in references if reference != arm and reference in arms]
    return pairs


def families(
    arms: list[str],
    controls: dict[str, list[str]] | None = None,
    networks: dict[str, Network] | None = None,
    whole: Sequence[str] = (),
    asked: Sequence[Sequence[str]] = (),
) -> list[tuple[str, str, str]]:
    """The pairs that are compared, each with its family of Holm's correction: one per reference, and one for requested pairs.

    controls, networks, whole: see `pairs_of`; asked: see `asked_pairs`.
    """
    usual = pairs_of(arms, controls, networks, whole)
    pairs = dict.fromkeys([*usual, *asked_pairs(arms, asked)])
    return [(a, b, b if (a, b) in usual else ASKED) for a, b in pairs]


def networks_of(fits: pd.DataFrame) -> dict[str, Network]:
    """By arm, the backbone and the number of its parameters."""
    rows = zip(fits["init"].astype(str), fits["backbone"].astype(str), fits["parameters"].astype(int), strict=True)
    return {str(arm_and_seed(init)[0]): (backbone, parameters) for init, backbone, parameters in rows}


def compared_scores(scores: Scores, a: list[str], b: list[str]) -> dict[Key, Compared]:
    """The comparison of two arms whose scores cover the same cases."""
    return contrasted_scores(scores, [a], [b])


def contrasted_scores(scores: Scores, plus: Groups, minus: Groups) -> dict[Key, Compared]:
    """Means of some groups of fits minus those of others, whose scores cover the same cases."""
    found = {}
    for key in scores[plus[0][0]]:
        sums = [reduce(add, (mean_of([scores[fit][key] for fit in fits]) for fits in groups)) for groups in (plus, minus)]
        of_plus, of_minus = ({fit: scores[fit][key] for fits in groups for fit in fits} for groups in (plus, minus))
        first, second = ([one.value for one in side.values()] for side in (of_plus, of_minus))
        found[key] = Compared(sums[0] - sums[1], first, second, of_plus | of_minus)
    return found


def comparison_rows(
    test: Tested,
    compared: Callable[[list[str], list[str]], dict[Key, Compared]],
    unit_differences: Callable[[list[str], list[str]], dict[Key, Float64[np.ndarray, "u"]]],
    positives: dict[str, tuple[Bool[np.ndarray, "n"], dict[str, Float64[np.ndarray, "n"]]]],
    *,
    confidence: float,
    holm_over: str,
    better: dict[str, str],
    pairs: Callable[[list[str]], list[tuple[str, str, str]]],
    areas: Sequence[str] = (),
    seeds_beside: bool = False,
) -> pd.DataFrame:
    """`comparisons.tsv`: a − b of the means over seeds, by paired bootstrap, DeLong (AUC) and Wilcoxon (units).

    The bootstrap includes the spread over seeds, unless that goes into its own column.

    compared: of two lists of fits, each score's difference over the cases that both arms have it for.
    unit_differences: the same as one number per unit `(u,)`, NaN if a unit has none; the input of signed ranks.
    pairs: see `families`; areas: metrics that are an area under the ROC curve.
    positives: for a task whose cases are independent, the positive class with its truth `(n,)` and each fit's scores `(n,)`.
    Holm's correction covers the arms compared with one reference in one mode and fraction, or the whole task; requested pairs are
    their own family.
    """
    rows: list[dict[str, Any]] = []
    for (mode, fraction), fits in test.fits.groupby(["mode", "fraction"], sort=True):
        by_arm = {str(arm): part for arm, part in fits.groupby("arm", sort=True)}
        for a, b, reference in pairs(list(by_arm)):
            ids_a, ids_b = (list(by_arm[arm]["fit_id"]) for arm in (a, b))
            place = {"a": a, "b": b, "mode": mode, "fraction": fraction, "reference": reference}
            scored, seeds = compared(ids_a, ids_b), [SeedsOfArm.of(arm, by_arm[arm]) for arm in (a, b)]
            alone = ""
            for (metric, label), pair in scored.items():
                by_seed = [means_by_seed(one, pair.of_fits) for one in seeds]
                spread, without = (None, "") if seeds_beside else spread_of_difference(seeds[0], seeds[1], *by_seed)
                found, n = interval(pair.difference, confidence, spread), pair.difference.num_units
                note = joined(pair.note, without if found.num_seeds else "")
                alone = THESE_SEEDS if found.num_seeds else alone
                row = place | {"metric": metric, "class": label} | _numbers(found, f"bootstrap ({found.method})", n, note)
                row |= {"n_rarer": pair.difference.num_rarer, "effect": _standardised(found, n), "effect_name": "d_z"}
                row |= _by_seed(by_arm[a], by_arm[b], pair.a, pair.b)
                rows.append(row)
            for metric, (label, (is_positive, values)) in itertools.product(areas, positives.items()):
                found = delong([values[fit] for fit in ids_a], [values[fit] for fit in ids_b], is_positive, confidence)
                row = place | {"metric": metric, "class": label} | _numbers(found, "delong", len(test.units), alone)
                few = int(min(is_positive.sum(), (~is_positive).sum()))
                rows.append(row | {"n_rarer": few, "effect": _standardised(found, len(test.units)), "effect_name": "d_z"})
            for (metric, label), difference in unit_differences(ids_a, ids_b).items():
                known = difference[np.isfinite(difference)]
                p, balance = signed_ranks(known) if len(known) else (np.nan, np.nan)
                found = Interval(float(known.mean()) if len(known) else np.nan, np.nan, np.nan, p, np.nan, "wilcoxon", "")
                note = joined(scored[metric, label].note if (metric, label) in scored else "", alone)
                row = place | {"metric": metric, "class": label} | _numbers(found, "wilcoxon", len(known), note)
                rows.append(row | {"effect": balance, "effect_name": "rank-biserial"})
    if not rows:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.DataFrame(rows)
    table = table.assign(better=table["metric"].map(better), unit=test.unit_kind, confidence=confidence)
    table["p_holm"] = corrected(table, ["mode", "fraction"] if holm_over == "arms" else [])
    table["p_holm_task"] = corrected(table.assign(reference=table["b"].map(is_scratch)), [])
    return table.reindex(columns=COLUMNS).astype({"num_seeds": "Int64", "seeds_above": "Int64", "n_rarer": "Int64"})


def corrected(table: pd.DataFrame, within: list[str]) -> pd.Series:
    """Holm's p of each row, over the rows with the same reference, score, method and values of the columns `within`."""
    family = [table[name] for name in ["reference", "metric", "class", *within]]
    family.append(table["method"].str.split(" ").str[0])
    return table.groupby(family)["p"].transform(lambda p: holm(p.to_numpy(np.float64)))


def joined(*notes: str) -> str:
    """Join notes into one, without empty ones."""
    return "; ".join(note for note in notes if note)


def _numbers(found: Interval, method: str, n: int, note: str = "") -> dict[str, Any]:
    numbers = {"difference": found.estimate, "low": found.low, "high": found.high, "p": found.p}
    return numbers | {"n": n, "method": method, "seeds_in_interval": found.num_seeds, "note": joined(found.note, note)}


def _by_seed(of_a: pd.DataFrame, of_b: pd.DataFrame, values_a: list[float], values_b: list[float]) -> dict[str, Any]:
    """The difference in each fine-tuning seed that both arms have (mean over pre-training seeds), and its spread."""
    means: list[dict[int, float]] = []
    for fits, values in ((of_a, values_a), (of_b, values_b)):
        seeds = fits["seed"].to_numpy()
        means.append({int(seed): float(np.mean(np.asarray(values)[seeds == seed])) for seed in np.unique(seeds)})
    paired = [means[0][seed] - means[1][seed] for seed in means[0] if seed in means[1]]
    return {"num_seeds": len(paired), "seed_sd": deviation(paired), "seeds_above": sum(d > 0 for d in paired)}


def deviation(values: list[float]) -> float:
    """Standard deviation of some values; missing for a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def _standardised(found: Interval, n: int) -> float:
    """The difference in standard deviations of its paired per-unit contributions: Cohen's d_z for a mean."""
    return found.estimate / (found.standard_error * np.sqrt(n)) if found.standard_error > 0 else np.nan
