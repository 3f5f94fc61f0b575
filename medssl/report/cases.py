"""Cases in the order of their score: which ones a page shows."""

from __future__ import annotations

import pandas as pd

from medssl.artefacts.names import is_scratch
from medssl.core import plugins
from medssl.core.plugins import Plugin
from medssl.report.shares import ordered_shares
from medssl.report.words import ordered_modes

EACH = 6


def ranking_metric(cases: pd.DataFrame) -> Plugin | None:
    """The metric that orders cases, of those that the table has; None where it has none."""
    metrics = (plugin for plugin in plugins.all_of("metric") if plugin.constant("RANKS_CASES", default=False))
    return next((plugin for plugin in metrics if plugin.name in cases), None)


def ranked_cases(cases: pd.DataFrame, each: int = EACH) -> pd.DataFrame:
    """Best, median and worst cases (mean over seeds) of the first pretrained arm in the first mode with the most labels."""
    mode, share = ordered_modes(cases["mode"])[0], ordered_shares(cases["fraction"])[-1]
    arms = sorted(set(cases["arm"]), key=lambda arm: (is_scratch(arm), arm))
    part = cases[(cases["mode"] == mode) & (cases["fraction"] == share) & (cases["arm"] == arms[0])]
    metric = ranking_metric(part)
    if metric is None:
        return pd.DataFrame()
    score, lower_is_better = metric.name, metric.constant("BETTER") == "lower"
    part = part[part[score].notna()]
    means = part.groupby("case_id", sort=True)[score].mean().rename("score").reset_index()
    means = means.sort_values(["score", "case_id"], ascending=[lower_is_better, True], kind="stable").reset_index(drop=True)
    means["rank"] = means.index + 1
    each = min(each, max(1, len(means) // 3))
    middle = max(0, len(means) // 2 - each // 2)
    places = {"best": range(each), "median": range(middle, middle + each), "worst": range(len(means) - each, len(means))}
    chosen = pd.concat([means.iloc[list(where)].assign(group=name) for name, where in places.items()], ignore_index=True)
    keys = [name for name in ("target", "predicted", "probability_of_target") if name in part]
    first = part.sort_values("seed", kind="stable").drop_duplicates("case_id")[["case_id", "unit_id", *keys]]
    return chosen.merge(first, on="case_id", how="left").assign(init=arms[0], mode=mode, fraction=share, score_name=score)
