"""Laws of every pair reducer under every traversal (methods: Less is More, invariants of the algorithm)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medssl.core.rng import rng
from medssl.reduce.budget import exactly
from medssl.reduce.hashes import Hasher, word_names
from medssl.reduce.information import entropy_bits
from medssl.reduce.pairs import Pairs
from medssl.reduce.reducers.embedding import Embedding
from medssl.reduce.reducers.hash import Hash
from medssl.reduce.reducers.mutual_information import MutualInformation
from medssl.reduce.reducers.ssim import Ssim
from medssl.reduce.slices import BUDGET, DUPLICATE, KEPT, NO_TWIN, Decision, Slices
from medssl.reduce.traversals import TRAVERSALS, balanced

KINDS = ("ahash", "dhash", "phash", "whash")
REDUCERS = {
    **{kind: (lambda s, kind=kind: Hash(s, kind=kind), 6.0) for kind in KINDS},
    "ssim": (Ssim, 0.35),
    "mi": (MutualInformation, 0.75),
    "mi bits": (lambda s: MutualInformation(s, form="bits", bins=32), 3.0),
    "cosine": (Embedding, 0.05),
    "euclidean": (lambda s: Embedding(s, metric="euclidean"), 0.8),
}


def made_slices(seed: int, volumes: int = 3, depth: int = 14) -> Slices:
    """Volumes whose slices drift, the last a near copy of the first, with exact twins, plus four images of a set."""
    planes, volume = [], []
    for number in range(volumes):
        noise = gaussian_filter(rng(seed, "volume", number % (volumes - 1)).normal(size=(30, 26, depth)), (3, 3, 2))
        unit = np.clip(noise / noise.std() / 6 + 0.5 + (0.002 if number == volumes - 1 else 0), 0, 1)
        unit[:, :, 5] = unit[:, :, 4]
        planes += list(unit.transpose(2, 0, 1))
        volume += [number] * depth
    planes += [planes[0], planes[9], planes[9], np.zeros((30, 26))]
    volume += [volumes + k for k in range(4)]
    images = np.stack(planes).astype(np.float32)
    hashes = Hasher(30, 26, KINDS, 8)(np.floor(images * 255 + 0.5).astype(np.uint8))
    columns = {word_names(kind, 8)[0]: words[:, 0] for kind, words in hashes.items()}
    number = np.arange(len(images))
    return Slices(
        ids=np.array([f"v-{v:02d}-{n:04d}" for v, n in zip(volume, number, strict=True)], dtype=object),
        volume=np.array(volume),
        neighbours=np.array(volume) < volumes,
        columns=columns,
        plane=lambda i: images[i],
        vectors=images[:, ::5, ::5].reshape(len(images), -1),
    )


def reordered(slices: Slices, order: np.ndarray) -> Slices:
    """The same slices in another order."""
    columns = {name: column[order] for name, column in slices.columns.items()}
    plane, vectors = slices.plane, slices.vectors
    return replace(
        slices,
        ids=slices.ids[order],
        volume=slices.volume[order],
        neighbours=slices.neighbours[order],
        columns=columns,
        plane=lambda i: plane(order[i]),
        vectors=vectors[order],
    )


def scope(slices: Slices, traversal: str) -> list[np.ndarray]:
    return [np.arange(len(slices))] if traversal == "global" else slices.runs()


def all_distances(pairs: Pairs) -> np.ndarray:
    everyone = np.arange(len(pairs.slices))
    return np.stack([pairs.distances(int(i), everyone) for i in everyone])


@pytest.mark.parametrize("traversal", TRAVERSALS)
@pytest.mark.parametrize("name", REDUCERS)
def test_kept_are_apart_and_dropped_are_near_the_one_they_name(name, traversal, count):
    make, threshold = REDUCERS[name]
    for seed in range(count):
        slices = made_slices(seed)
        pairs = make(slices)
        apart = all_distances(pairs)
        decision = TRAVERSALS[traversal](pairs, threshold)
        assert 0 < decision.num_kept < len(slices)
        for members in scope(slices, traversal):
            kept = members[decision.keep[members]]
            between = apart[np.ix_(kept, kept)] + np.where(np.eye(len(kept)), np.inf, 0)
            assert (between > threshold).all()
            if traversal != "cover":
                assert decision.keep[members[0]]
            for index in members[~decision.keep[members]]:
                twin = decision.twin[index]
                assert twin in members and decision.keep[twin]
                assert decision.distance[index] == pytest.approx(apart[index, twin], abs=1e-5) and apart[index, twin] <= threshold
        outside = np.setdiff1d(np.arange(len(slices)), np.concatenate(scope(slices, traversal)))
        assert decision.keep[outside].all()


@pytest.mark.parametrize("traversal", TRAVERSALS)
@pytest.mark.parametrize("name", REDUCERS)
def test_reducing_again_drops_nothing(name, traversal):
    make, threshold = REDUCERS[name]
    slices = made_slices(1)
    decision = TRAVERSALS[traversal](make(slices), threshold)
    again = TRAVERSALS[traversal](make(reordered(slices, np.flatnonzero(decision.keep))), threshold)
    assert again.keep.all()


@pytest.mark.parametrize("name", REDUCERS)
def test_cover_does_not_depend_on_the_order(name, count):
    make, threshold = REDUCERS[name]
    for seed in range(count):
        slices = made_slices(seed)
        first = TRAVERSALS["cover"](make(slices), threshold)
        shuffle = np.concatenate([rng(seed, "order", k).permutation(m) for k, m in enumerate(slices.runs())])
        order = np.concatenate([shuffle, np.flatnonzero(~slices.neighbours)])
        mixed = reordered(slices, order)
        second = TRAVERSALS["cover"](make(mixed), threshold)
        assert set(slices.ids[first.keep]) == set(mixed.ids[second.keep])
        named = {mixed.ids[i]: mixed.ids[t] for i, t in enumerate(second.twin) if t != NO_TWIN}
        assert named == {slices.ids[i]: slices.ids[t] for i, t in enumerate(first.twin) if t != NO_TWIN}


@pytest.mark.parametrize("name", REDUCERS)
def test_equal_slices_always_collapse_to_one(name):
    make, _ = REDUCERS[name]
    slices = made_slices(2)
    decision = TRAVERSALS["global"](make(slices), 0.0)
    for a, b in ((4, 5), (18, 19), (0, 42), (9, 43), (9, 44)):
        assert decision.keep[a] and decision.twin[b] == a and decision.distance[b] == 0


def brute_greedy(apart: np.ndarray, threshold: float) -> np.ndarray:
    """The paper's loop, word for word, over a matrix of distances: the twin of each, or -1."""
    remaining = list(range(len(apart)))
    twin = np.full(len(apart), NO_TWIN)
    while remaining:
        first = remaining[0]
        for other in remaining[1:]:
            if apart[first, other] <= threshold:
                twin[other] = first
        remaining = [x for x in remaining[1:] if twin[x] != first]
    return twin


def brute_cover(apart: np.ndarray, threshold: float) -> np.ndarray:
    """The cover, word for word: keep the slice with most neighbours not yet covered, drop those, repeat; ties to the first."""
    free, twin = set(range(len(apart))), np.full(len(apart), NO_TWIN)
    while free:
        near = {x: [y for y in free if y != x and apart[x, y] <= threshold] for x in sorted(free)}
        keeper = max(near, key=lambda x: (len(near[x]), -x))
        twin[near[keeper]] = keeper
        free -= {keeper, *near[keeper]}
    return twin


def random_codes(seed: int) -> tuple[Slices, np.ndarray]:
    """Fifty slices of one volume, their codes some bits away from ten, and their distances."""
    generator = rng(seed, "codes")
    base = generator.integers(0, 2**63, 10, dtype=np.uint64)
    codes = base[generator.integers(0, 10, 50)]
    for _ in range(4):
        codes = codes ^ (np.uint64(1) << generator.integers(0, 64, 50).astype(np.uint64))
    ids = np.array([f"v-00-{n:04d}" for n in range(50)], dtype=object)
    slices = Slices(ids, np.zeros(50, int), np.ones(50, bool), {"dhash_8_0": codes})
    return slices, np.bitwise_count(codes[:, None] ^ codes[None])


@pytest.mark.parametrize("threshold", [0, 3, 6, 12, 64])
def test_cover_equals_its_definition_where_neighbourhoods_overlap(threshold, count):
    for seed in range(count):
        slices, _ = random_codes(seed)
        # a walk along which one slice lies between others, unlike the near cliques of random codes
        steps = np.uint64(1) << rng(seed, "walk").integers(0, 64, (2, 50)).astype(np.uint64)
        codes = np.bitwise_xor.accumulate(steps[0] ^ steps[1])
        slices = replace(slices, columns={"dhash_8_0": codes})
        apart = np.bitwise_count(codes[:, None] ^ codes[None])
        assert (TRAVERSALS["cover"](Hash(slices), threshold).twin == brute_cover(apart, threshold)).all()


@pytest.mark.parametrize("threshold", [0, 3, 6, 12, 64])
def test_greedy_equals_the_papers_loop_on_random_codes(threshold, count):
    for seed in range(count):
        slices, apart = random_codes(seed)
        assert (TRAVERSALS["greedy"](Hash(slices), threshold).twin == brute_greedy(apart, threshold)).all()


def test_threshold_64_keeps_one_slice_of_a_volume_and_0_drops_exact_twins_only():
    slices = made_slices(3)
    pairs = Hash(slices)
    assert TRAVERSALS["greedy"](pairs, 64).keep[slices.neighbours].sum() == 3
    decision = TRAVERSALS["greedy"](pairs, 0)
    dropped = np.flatnonzero(~decision.keep)
    assert len(dropped) and (pairs.codes[dropped] == pairs.codes[decision.twin[dropped]]).all()


@pytest.mark.parametrize("metric", ["hash", "cosine", "euclidean"])
def test_the_search_in_blocks_equals_the_plain_greedy_pass(metric, monkeypatch):
    generator = rng(0, "blocks")
    centres = generator.normal(size=(60, 24))
    points = centres[generator.integers(0, 60, 700)] + generator.normal(size=(700, 24)) * 0.25
    bits = np.packbits(points[:, :8] > 0, axis=1).astype(np.uint64)[:, 0] | (
        np.packbits(points[:, 8:16] > 0, axis=1).astype(np.uint64)[:, 0] << np.uint64(40)
    )
    slices = Slices(np.arange(700).astype(object), np.arange(700), np.zeros(700, bool), {"dhash_8_0": bits}, vectors=points)
    pairs, threshold = {
        "hash": (Hash(slices), 2),
        "cosine": (Embedding(slices), 0.1),
        "euclidean": (Embedding(slices, metric="euclidean"), 2.0),
    }[metric]
    plain = Pairs.leaders(pairs, np.arange(700), threshold)
    module = "medssl.reduce.reducers.hash" if metric == "hash" else "medssl.reduce.reducers.embedding"
    monkeypatch.setattr(f"{module}.BLOCK", 64)
    monkeypatch.setattr("medssl.reduce.reducers.hash.LARGE", 10)
    twin, distance = pairs.leaders(np.arange(700), threshold)
    assert (twin == plain[0]).all() and 0 < (twin == NO_TWIN).sum() < 700
    np.testing.assert_allclose(distance, plain[1], atol=1e-6)


def test_balanced_shares_equally_among_clusters():
    generator = rng(0, "clusters")
    centres = generator.normal(size=(4, 8)) * 50
    which = np.repeat(np.arange(4), [600, 60, 30, 10])
    points = centres[which] + generator.normal(size=(700, 8))
    ids = np.array([f"v-{n:04d}" for n in range(700)], dtype=object)
    slices = Slices(ids, np.arange(700), np.zeros(700, bool), vectors=points)
    decision = balanced(Embedding(slices, metric="euclidean"), 100)
    kept = np.bincount(which[decision.keep], minlength=4)
    assert decision.num_kept == 100 and kept[0] < 60 and kept[3] == 10
    dropped = np.flatnonzero(decision.twin != NO_TWIN)
    assert decision.keep[decision.twin[dropped]].all() and (which[decision.twin[dropped]] == which[dropped]).all()


def test_entropy_of_known_counts():
    assert entropy_bits(np.array([5, 5, 0, 5, 5])) == pytest.approx(2.0, abs=1e-15)
    assert entropy_bits(np.array([7])) == 0.0


def made_decision(seed: int, num: int = 40) -> tuple[Decision, Slices]:
    """A third kept; the others name a keeper, at distances of which some are equal."""
    random = np.random.default_rng(seed)
    keep = np.arange(num) % 3 == 0
    twin = np.where(keep, NO_TWIN, random.choice(np.flatnonzero(keep)[:6], num))
    distance = np.where(keep, np.nan, random.integers(0, 7, num)).astype(np.float32)
    ids = np.array([f"v-00-{n:04d}" for n in range(num)], dtype=object)
    slices = Slices(ids, np.zeros(num, np.int64), np.ones(num, bool), seed=seed)
    return Decision.of(keep, DUPLICATE, twin, distance), slices


@pytest.mark.parametrize("seed", range(4))
def test_a_budget_brings_back_the_farthest(seed):
    decision, slices = made_decision(seed)
    more = exactly(decision, decision.num_kept + 9, slices)
    back = more.keep & ~decision.keep
    assert back.sum() == 9 and more.keep[decision.keep].all()
    assert decision.distance[back].min() >= more.distance[~more.keep].max()
    assert (more.twin[back] == NO_TWIN).all() and np.isnan(more.distance[back]).all() and (more.reason[back] == KEPT).all()
    others = ~back
    assert (more.twin[others] == decision.twin[others]).all() and (more.reason[others] == decision.reason[others]).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_budget_drops_the_keepers_that_stand_for_fewest(seed):
    decision, slices = made_decision(seed)
    fewer = exactly(decision, 4, slices)
    gone = decision.keep & ~fewer.keep
    assert fewer.num_kept == 4 and not (fewer.keep & ~decision.keep).any()
    stands_for = np.bincount(decision.twin[decision.twin != NO_TWIN], minlength=len(slices))
    assert stands_for[gone].max() <= stands_for[fewer.keep].min()
    orphans = gone | (~decision.keep & np.isin(decision.twin, np.flatnonzero(gone)))
    assert (fewer.twin[orphans] == NO_TWIN).all() and (fewer.reason[orphans] == BUDGET).all()
    assert (fewer.twin[~orphans] == decision.twin[~orphans]).all()
