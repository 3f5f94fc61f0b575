"""Scores with intervals, and paired comparisons of arms, from the replicates of their fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.delong import delong
from medssl.evaluate.intervals import Interval, Replicates, interval, mean_of
from medssl.evaluate.predictions import SCRATCH, Tested
from medssl.evaluate.ranks import holm, signed_ranks
from medssl.evaluate.sample import Floats

Scores = dict[str, dict[tuple[str, str], Replicates]]
"""By fit, then by metric and class."""

UnitScores = dict[str, dict[tuple[str, str], Floats]]
"""The same for one number per unit `(u,)`: what signed ranks are taken of."""

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
    "n",
    "unit",
    "method",
    "effect",
    "effect_name",
    "num_seeds",
    "seed_sd",
    "seeds_above",
    "confidence",
    "note",
]


def score_rows(test: Tested, scores: Scores, confidence: float, better: dict[str, str]) -> pd.DataFrame:
    """`scores.tsv`: the mean over seeds of each metric and class with its interval over units; seeds as their own spread.

    better: by metric, whether `higher` or `lower` values are better.
    """
    rows = []
    for (arm, mode, fraction), fits in test.fits.groupby(["arm", "mode", "fraction"], sort=True):
        for metric, label in scores[fits["fit_id"].iloc[0]]:
            seeds = [scores[fit][metric, label] for fit in fits["fit_id"]]
            found = interval(mean_of(seeds), confidence)
            rows.append(
                {"init": arm, "mode": mode, "fraction": fraction, "metric": metric, "class": label, "better": better[metric]}
                | {"estimate": found.estimate, "low": found.low, "high": found.high, "confidence": confidence}
                | {"n": len(test.units), "unit": test.unit_kind, "num_cases": len(test.cases)}
                | {"num_seeds": len(seeds), "seed_sd": _spread([seed.value for seed in seeds])}
                | {"method": found.method, "note": found.note}
            )
    return pd.DataFrame(rows)


def pairs_of(arms: list[str], controls: dict[str, list[str]] | None = None) -> list[tuple[str, str]]:
    """Which arms are compared: each with scratch, each reduction (`simclr-hash`) with its objective's `simclr-all`, and with
    the controls that keep as many slices (`simclr-random_n`).

    controls: by reduction, the reductions that match its count.
    """
    pairs = [(arm, SCRATCH) for arm in arms if arm != SCRATCH and SCRATCH in arms]
    for arm in arms:
        objective, _, reduction = arm.rpartition("-")
        references = [f"{objective}-{name}" for name in ("all", *(controls or {}).get(reduction, [])) if objective]
        pairs += [(arm, reference) for reference in references if reference != arm and reference in arms]
    return pairs


def comparison_rows(
    test: Tested,
    scores: Scores,
    unit_scores: UnitScores,
    positives: dict[str, tuple[np.ndarray, dict[str, Floats]]],
    *,
    confidence: float,
    holm_over: str,
    better: dict[str, str],
    controls: dict[str, list[str]] | None = None,
) -> pd.DataFrame:
    """`comparisons.tsv`: a − b of the means over seeds, by paired bootstrap, DeLong (AUC) and Wilcoxon (units).

    controls: see `pairs_of`.
    positives: for a task whose cases are independent, the positive class with its truth `(n,)` and each fit's scores `(n,)`.
    Holm's correction runs over the arms compared with one reference in one mode and fraction, or over the whole task.
    """
    rows: list[dict[str, Any]] = []
    n = len(test.units)
    for (mode, fraction), fits in test.fits.groupby(["mode", "fraction"], sort=True):
        by_arm = {str(arm): part for arm, part in fits.groupby("arm", sort=True)}
        for a, b in pairs_of(list(by_arm), controls):
            ids = {arm: list(by_arm[arm]["fit_id"]) for arm in (a, b)}
            place = {"a": a, "b": b, "mode": mode, "fraction": fraction}
            for metric, label in scores[ids[a][0]]:
                of_a, of_b = ([scores[fit][metric, label] for fit in ids[arm]] for arm in (a, b))
                found = interval(mean_of(of_a) - mean_of(of_b), confidence)
                row = place | {"metric": metric, "class": label} | _numbers(found, f"bootstrap ({found.method})")
                row |= {"effect": _standardised(found, n), "effect_name": "d_z"}
                row |= _by_seed(by_arm[a], by_arm[b], [r.value for r in of_a], [r.value for r in of_b])
                rows.append(row)
            for label, (is_positive, values) in positives.items():
                found = delong([values[fit] for fit in ids[a]], [values[fit] for fit in ids[b]], is_positive, confidence)
                row = place | {"metric": "auc", "class": label} | _numbers(found, "delong")
                rows.append(row | {"effect": _standardised(found, n), "effect_name": "d_z"})
            for metric, label in unit_scores[ids[a][0]]:
                mean_a, mean_b = (np.mean([unit_scores[fit][metric, label] for fit in ids[arm]], axis=0) for arm in (a, b))
                p, balance = signed_ranks(mean_a - mean_b)
                found = Interval(float(np.nanmean(mean_a - mean_b)), np.nan, np.nan, p, np.nan, "wilcoxon", "")
                row = place | {"metric": metric, "class": label} | _numbers(found, "wilcoxon")
                rows.append(row | {"effect": balance, "effect_name": "rank-biserial"})
    if not rows:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.DataFrame(rows)
    table = table.assign(better=table["metric"].map(better), n=n, unit=test.unit_kind, confidence=confidence)
    family = [table[name] for name in ["b", "metric", "class"] + (["mode", "fraction"] if holm_over == "arms" else [])]
    family.append(table["method"].str.split(" ").str[0])
    table["p_holm"] = table.groupby(family)["p"].transform(lambda p: holm(p.to_numpy(np.float64)))
    return table.reindex(columns=COLUMNS).astype({"num_seeds": "Int64", "seeds_above": "Int64"})


def _numbers(found: Interval, method: str) -> dict[str, Any]:
    numbers = {"difference": found.estimate, "low": found.low, "high": found.high, "p": found.p}
    return numbers | {"method": method, "note": found.note}


def _by_seed(of_a: pd.DataFrame, of_b: pd.DataFrame, values_a: list[float], values_b: list[float]) -> dict[str, Any]:
    """The difference in each fine-tuning seed that both arms have (mean over pre-training seeds), and its spread."""
    means: list[dict[int, float]] = []
    for fits, values in ((of_a, values_a), (of_b, values_b)):
        seeds = fits["seed"].to_numpy()
        means.append({int(seed): float(np.mean(np.asarray(values)[seeds == seed])) for seed in np.unique(seeds)})
    paired = [means[0][seed] - means[1][seed] for seed in means[0] if seed in means[1]]
    return {"num_seeds": len(paired), "seed_sd": _spread(paired), "seeds_above": sum(d > 0 for d in paired)}


def _spread(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def _standardised(found: Interval, n: int) -> float:
    """The difference in standard deviations of its paired per-unit contributions: Cohen's d_z for a mean."""
    return found.estimate / (found.standard_error * np.sqrt(n)) if found.standard_error > 0 else np.nan
