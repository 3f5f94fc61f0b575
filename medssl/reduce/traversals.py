"""The order and range in which slices are compared. Every dropped slice names the kept one within the threshold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medssl.core.errors import StudyError
from medssl.core.rng import ids_to_keys, key, uniforms
from medssl.reduce.pairs import Pairs
from medssl.reduce.slices import BUDGET, DUPLICATE, NO_TWIN, Decision

CLUSTER_MEMBERS = 32
MAX_CLUSTERS = 4096


def greedy(pairs: Pairs, threshold: float) -> Decision:
    """Inside each volume, in anatomical order, as in the paper."""
    return _within_groups(pairs, pairs.slices.runs(), lambda members: pairs.leaders(members, threshold))


def cover(pairs: Pairs, threshold: float) -> Decision:
    """Inside each volume, in any order: keep the slice with most neighbours not yet covered, drop those, repeat; ties by id."""
    return _within_groups(pairs, pairs.slices.runs(), lambda members: _cover(pairs, members, threshold))


def everywhere(pairs: Pairs, threshold: float) -> Decision:
    """Across volumes and patients: greedy over all slices, volumes by id and slices in anatomical order."""
    return _within_groups(pairs, [np.arange(len(pairs.slices))], lambda members: pairs.leaders(members, threshold))


TRAVERSALS: dict[str, Callable[[Pairs, float], Decision]] = {"greedy": greedy, "cover": cover, "global": everywhere}


def balanced(pairs: Pairs, count: int) -> Decision:
    """Keep `count` slices, shared equally among the clusters of a two-level k-means; small clusters pass on their shortfall.

    A dropped slice names the nearest kept one of its cluster, if there is one.

    Raises:
        StudyError: the reducer has no vectors to cluster.

    Source: Vo et al. 2024, "Automatic data curation for self-supervised learning", arXiv 2405.15613, §3.
    """
    slices, points = pairs.slices, pairs.vectors()
    if points is None:
        raise StudyError(
            "traversal 'balanced' clusters vectors, and the arm's reducer has no vectors: it compares slices in pairs. Choose "
            "another traversal, or a reducer whose slices are points (docs/explanation/reduce.md lists them)."
        )
    if not len(points):
        return Decision.of(np.empty(0, bool), BUDGET)
    num_small = int(np.clip(len(points) // CLUSTER_MEMBERS, 1, MAX_CLUSTERS))
    centres, small = _k_means(points, num_small, slices.seed, tries=1)
    _, large_of_small = _k_means(centres, max(int(np.sqrt(len(centres))), 1), slices.seed, tries=10)
    luck = uniforms(key(slices.seed, "reduce", "balanced"), ids_to_keys(list(slices.ids)), 1)[:, 0]

    share_of_large = _shares(np.bincount(large_of_small[small], minlength=int(large_of_small.max()) + 1), count)
    keep = np.zeros(len(slices), bool)
    sizes = np.bincount(small, minlength=len(centres))
    by_cluster = np.split(np.lexsort((luck, small)), np.cumsum(sizes)[:-1])
    for large, share in enumerate(share_of_large):
        clusters = np.flatnonzero(large_of_small == large)
        for cluster, num in zip(clusters, _shares(sizes[clusters], int(share)), strict=True):
            keep[by_cluster[cluster][:num]] = True

    twin = np.full(len(slices), NO_TWIN)
    distance = np.full(len(slices), np.nan, np.float32)
    for members in by_cluster:
        kept, dropped = members[keep[members]], members[~keep[members]]
        if len(kept) and len(dropped):
            twin[dropped] = kept[_squared(points, dropped, kept).argmin(1)]
            for keeper in np.unique(twin[dropped]):
                mine = dropped[twin[dropped] == keeper]
                distance[mine] = pairs.distances(int(keeper), mine)
    return Decision.of(keep, BUDGET, twin, distance)


def _within_groups(
    pairs: Pairs, groups: list[np.ndarray], leaders: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> Decision:
    twin = np.full(len(pairs.slices), NO_TWIN)
    distance = np.full(len(pairs.slices), np.nan, np.float32)
    for members in groups:
        twin[members], distance[members] = leaders(members)
    return Decision.of(twin == NO_TWIN, DUPLICATE, twin, distance)


def _cover(pairs: Pairs, members: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Independent cover by neighbour count of slices `members` (n,): twin (n,) index or -1, distance (n,)."""
    order = np.argsort(pairs.slices.ids[members].astype(str), kind="stable")
    by_id, place = members[order], np.argsort(order, kind="stable")
    distances = np.full((len(by_id), len(by_id)), np.inf, np.float32)
    for a, b, distance in pairs.neighbours(by_id, threshold):
        distances[a, b] = distances[b, a] = distance
    within = np.isfinite(distances)
    count = within.sum(1)
    free = np.ones(len(by_id), bool)
    twin_of = np.full(len(by_id), NO_TWIN)
    while free.any():
        keeper = int(np.where(free, count, -1).argmax())
        covered = np.flatnonzero(within[keeper] & free)
        covered = covered[covered != keeper]
        twin_of[covered] = keeper
        free[covered] = free[keeper] = False
        count -= within[:, covered].sum(1) + within[:, keeper]
    keeper_of = twin_of[place]
    twin = np.where(keeper_of == NO_TWIN, NO_TWIN, by_id[keeper_of])
    distance = np.where(keeper_of == NO_TWIN, np.nan, distances[place, keeper_of]).astype(np.float32)
    return twin, distance


def _shares(sizes: np.ndarray, total: int) -> np.ndarray:
    """`total` divided as equally as `sizes` allow (water filling); the remainder goes to the first groups with room."""
    total = min(total, int(sizes.sum()))
    low, high = 0, int(sizes.max(initial=0))
    while low < high:
        level = (low + high + 1) // 2
        if np.minimum(sizes, level).sum() <= total:
            low = level
        else:
            high = level - 1
    share = np.minimum(sizes, low)
    room = np.flatnonzero(sizes > low)[: total - int(share.sum())]
    share[room] += 1
    return share


def _k_means(points: np.ndarray, k: int, seed: int, *, tries: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (k, d) of the best of several tries, and the cluster of each point (n,)."""
    import faiss

    points = np.ascontiguousarray(points, np.float32)
    k = min(k, len(points))
    start = key(seed, "reduce", "k-means") % 2**31
    means = faiss.Kmeans(points.shape[1], k, niter=20, nredo=tries, seed=start, min_points_per_centroid=1)
    means.train(points)
    _, nearest = means.index.search(points, 1)
    return np.asarray(means.centroids).reshape(k, -1), nearest[:, 0]


def _squared(points: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (rows, columns) up to a constant per row."""
    return (points[columns] ** 2).sum(1)[None] - 2 * points[rows] @ points[columns].T
