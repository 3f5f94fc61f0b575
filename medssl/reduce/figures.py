"""The pictures of a decision and of the firewall, and the numbers below them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medssl.artefacts.keep import Curve
from medssl.reduce import pictures
from medssl.reduce.cohort import Cohort
from medssl.reduce.pairs import Pairs
from medssl.reduce.ranking import Ranks
from medssl.reduce.slices import Decision, Slices

CURVE_POINTS = 33
PICTURED_SLICES = 48
PICTURED_VOLUMES = 40


class KeptShares(NamedTuple):
    """Kept share (m,) against thresholds (m,) over some volumes, and the distances (n, n) inside the first of them."""

    thresholds: np.ndarray
    kept_frac: np.ndarray
    matrix: np.ndarray

    @property
    def curve(self) -> Curve:
        """The kept share as the summary states it."""
        return Curve(threshold=self.thresholds.tolist(), kept_frac=self.kept_frac.tolist())


def figures(
    reducer: Pairs | Ranks, slices: Slices, decision: Decision, threshold: float | None, name: str
) -> tuple[dict[str, Any], Curve | None]:
    """Pictures of a decision about `slices` (with pixels) by file name, and the curve of a reducer that compares pairs."""
    drawn: dict[str, Any] = {}
    if decision.keep.all():
        return drawn, None
    if slices.plane is not None and (sheet := pictures.contact_sheet(slices, decision, slices.plane)) is not None:
        drawn["contact.png"] = sheet
    runs = [members for members in slices.runs() if len(members) > 1]
    if runs:
        place = np.concatenate([np.linspace(0, 1, len(members)) for members in runs])
        drawn["where.svg"] = pictures.where_dropped(place, decision.keep[np.concatenate(runs)])
    found = _kept_shares(reducer) if isinstance(reducer, Pairs) else None
    if found is None:
        return drawn, None
    drawn["curve.svg"] = pictures.threshold_curve(found.thresholds, found.kept_frac, threshold, name)
    drawn["similarity.png"] = pictures.similarity_matrix(found.matrix, name)
    return drawn, found.curve


def leak_sheet(shown: pd.DataFrame, pool: Cohort, held: Cohort) -> Any:
    """Pairs of a held-out and a pool image side by side: a Pillow image, or None without any."""
    if shown.empty:
        return None
    (held_place, held_plane), (pool_place, pool_plane) = (
        (
            {one: row for row, one in enumerate(side.table["sample_id"])},
            side.reader(side.table.index.to_numpy()),
        )
        for side in (held, pool)
    )
    tiles = []
    for query_id, pool_id, how, score in shown[["query_id", "pool_id", "how", "score"]].itertuples(index=False):
        left, right = held_plane(held_place[query_id]), pool_plane(pool_place[pool_id])
        tiles.append((left, right, "held out", f"in pool ({how}, {score:.3g})"))
    return pictures.pair_sheet(tiles)


def _kept_shares(reducer: Pairs) -> KeptShares | None:
    """Computed by the greedy pass over some volumes; None without a volume of two slices."""
    runs = [members for members in reducer.slices.runs() if len(members) > 1]
    if not runs:
        return None
    step = max(len(runs) // PICTURED_VOLUMES, 1)
    runs = [runs[0][:: max(len(runs[0]) // PICTURED_SLICES, 1)]] if reducer.costly else runs[::step][:PICTURED_VOLUMES]
    matrices = [_matrix(reducer, members) for members in runs]
    if reducer.whole_steps:
        thresholds = np.arange(0.0, min(reducer.max_threshold, CURVE_POINTS - 1) + 1)
    else:
        thresholds = np.quantile(np.concatenate([m.ravel() for m in matrices]), np.linspace(0, 1, CURVE_POINTS)).astype(float)
    total = sum(map(len, matrices))
    kept = [sum(_num_leaders(matrix, threshold) for matrix in matrices) for threshold in thresholds]
    return KeptShares(thresholds, np.array(kept) / total, matrices[0])


def _matrix(reducer: Pairs, members: np.ndarray) -> np.ndarray:
    """Distances (n, n) among slices `members` (n,), each pair computed once."""
    matrix = np.zeros((len(members), len(members)), np.float32)
    for place in range(len(members) - 1):
        matrix[place, place + 1 :] = reducer.distances(int(members[place]), members[place + 1 :])
    return matrix + matrix.T


def _num_leaders(matrix: np.ndarray, threshold: float) -> int:
    free, count = np.ones(len(matrix), bool), 0
    for anchor in range(len(matrix)):
        if free[anchor]:
            count += 1
            free &= matrix[anchor] > threshold
            free[anchor] = False
    return count
