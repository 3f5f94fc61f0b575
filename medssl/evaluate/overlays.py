"""Planes of the best, median and worst segmentations by rank, for a picture of each on the page."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from medssl.artefacts.names import is_scratch
from medssl.core import plugins

EACH = 4


def pictured(cases: pd.DataFrame, score: str | None, each: int = EACH) -> pd.DataFrame:
    """A row per pictured case: fit, case, group (best, median, worst), rank and score.

    The fit is the first seed of the first pre-trained arm, in the task's main mode if available, with the most labels. Cases are
    ranked by their mean `score` over classes, a column in which higher is better.
    """
    if score is None:
        return pd.DataFrame()
    main = {plugin.constant("MAIN_MODE", default=None) for plugin in plugins.all_of("task")}
    order = cases.assign(of_scratch=cases["arm"].map(is_scratch), not_main=~cases["mode"].isin(main), fewer=-cases["fraction"])
    first = order.sort_values(["of_scratch", "arm", "not_main", "mode", "fewer", "pretrain_seed", "seed"], kind="stable").iloc[0]
    part = cases[(cases["fit_id"] == first["fit_id"]) & cases[score].notna()]
    ranked = part.groupby("case_id", sort=True)[score].mean().rename("score").reset_index()
    ranked = ranked.sort_values(["score", "case_id"], ascending=[False, True], kind="stable", ignore_index=True)
    ranked["rank"], ranked["num_ranked"] = ranked.index + 1, len(ranked)
    each = min(each, len(ranked) // 3)
    if each == 0:
        return ranked.assign(group="all", fit_id=first["fit_id"], init=first["arm"])
    middle = (len(ranked) - each) // 2
    groups = {"best": slice(0, each), "median": slice(middle, middle + each), "worst": slice(len(ranked) - each, None)}
    chosen = pd.concat([ranked.iloc[where].assign(group=name) for name, where in groups.items()], ignore_index=True)
    return chosen.assign(fit_id=first["fit_id"], init=first["arm"])


def fullest_plane(
    prediction: Shaped[np.ndarray, "*size"], target: Shaped[np.ndarray, "*size"], spacing_mm: tuple[float, ...]
) -> dict[str, object]:
    """The plane across the coarsest axis with the most of either mask: `axis`, `index`, its two masks as bytes and its shape."""
    axis = int(np.argmax(np.round(spacing_mm, 3))) if np.ptp(np.round(spacing_mm, 3)) > 0 else prediction.ndim - 1
    either = (prediction != 0) | (target != 0)
    areas = either.sum(axis=tuple(a for a in range(either.ndim) if a != axis))
    index = int(areas.argmax())
    planes = [np.ascontiguousarray(np.take(mask, index, axis=axis).astype(np.uint8)) for mask in (prediction, target)]
    shape = {"rows": planes[0].shape[0], "columns": planes[0].shape[1]}
    return {"axis": axis, "index": index, **shape, "prediction": planes[0].tobytes(), "target": planes[1].tobytes()}
