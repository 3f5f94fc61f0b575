"""SSIM, mutual information and entropy equal slow references; budgets keep their word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medssl.core.rng import rng
from medssl.reduce.budget import evenly, exactly, lowest, nearest_threshold
from medssl.reduce.information import bin_codes, entropy_bits
from medssl.reduce.reducers.entropy import Entropy
from medssl.reduce.reducers.hash import Hash
from medssl.reduce.reducers.mutual_information import MutualInformation
from medssl.reduce.reducers.random_n import RandomN
from medssl.reduce.reducers.ssim import Ssim
from medssl.reduce.slice_cache import SliceCache
from medssl.reduce.slices import NO_TWIN, Slices
from medssl.reduce.structure import moments, ssim
from medssl.reduce.traversals import TRAVERSALS


def pair_of_images(seed: int, shape=(90, 71)) -> tuple[np.ndarray, np.ndarray]:
    generator = rng(seed, "pair")
    a = gaussian_filter(generator.normal(size=shape), 4)
    a = np.clip(a / a.std() / 5 + 0.5, 0, 1)
    return a, np.clip(a + generator.normal(size=shape) * 0.05, 0, 1)


def slices_of(images: list[np.ndarray], **columns: np.ndarray) -> Slices:
    ids = np.array([f"v-{n:04d}" for n in range(len(images))], dtype=object)
    return Slices(
        ids, np.zeros(len(images), int), np.ones(len(images), bool), columns, plane=lambda i: images[i].astype(np.float32)
    )


@pytest.mark.parametrize("shape", [(90, 71), (11, 11), (64, 200), (138, 12)])
def test_ssim_is_the_definition(shape):
    a, b = pair_of_images(0, shape)
    inner = (slice(5, -5), slice(5, -5))

    def blur(x):
        return gaussian_filter(x, 1.5, truncate=3.5)[inner]

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
    expected = (top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean()
    assert ssim(moments(a), moments(b)) == pytest.approx(expected, abs=1e-5)
    assert ssim(moments(a), moments(a)) == pytest.approx(1.0, abs=1e-6)


def test_ssim_is_exact_where_a_slice_is_dark():
    a, b = pair_of_images(5, (80, 80))
    a, b = np.where(a < 0.55, 0.0, a), np.where(b < 0.55, 0.002, b)
    inner = (slice(5, -5), slice(5, -5))
    blur = lambda x: gaussian_filter(x, 1.5, truncate=3.5)[inner]  # noqa: E731
    mean_a, mean_b = blur(a), blur(b)
    spread = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2 + 9e-4
    top = (2 * mean_a * mean_b + 1e-4) * (2 * (blur(a * b) - mean_a * mean_b) + 9e-4)
    assert ssim(moments(a), moments(b)) == pytest.approx((top / ((mean_a**2 + mean_b**2 + 1e-4) * spread)).mean(), abs=1e-5)


def test_ssim_is_scikit_images():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = pair_of_images(1)
    expected = metrics.structural_similarity(a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert ssim(moments(a), moments(b)) == pytest.approx(expected, abs=1e-5)


def test_ssim_of_unlike_shapes_is_as_far_as_can_be():
    a, _ = pair_of_images(2)
    pairs = Ssim(slices_of([a, a[:40], a[:8], a[:8], a[1:9]]))
    assert pairs.distances(0, np.array([1, 2])).tolist() == [2.0, 2.0]
    assert pairs.distances(2, np.array([3, 4])).tolist() == [0.0, 2.0]


@pytest.mark.parametrize("bins", [2, 64, 100])
def test_mutual_information_is_histogram2ds(bins):
    a, b = pair_of_images(3)
    a[0, :3], b[0, :3] = (0, 1, 0.5), (1, 1, 0)
    a, b = a.astype(np.float32), b.astype(np.float32)
    joint = np.histogram2d(a.ravel(), b.ravel(), bins=bins, range=[[0, 1], [0, 1]])[0]
    share = joint / joint.sum()
    outer = share.sum(1, keepdims=True) * share.sum(0, keepdims=True)
    information = (share[share > 0] * np.log2(share[share > 0] / outer[share > 0])).sum()
    richer = max(entropy_bits(joint.sum(0)), entropy_bits(joint.sum(1)))
    for form, expected in (("bits", richer - information), ("normalised", 1 - information / richer)):
        pairs = MutualInformation(slices_of([a, b]), form=form, bins=bins)
        assert pairs.distances(0, np.array([1]))[0] == pytest.approx(expected, abs=1e-6)
        assert pairs.distances(0, np.array([1]))[0] == pairs.distances(1, np.array([0]))[0]


@pytest.mark.parametrize("bins", [2, 7, 64, 255])
def test_bins_are_numpys(bins):
    values = np.concatenate([np.linspace(0, 1, bins + 1), rng(0, "bins").random(5000), np.arange(256) / 255])
    for typed in (values, values.astype(np.float32)):
        counts = np.bincount(bin_codes(typed, bins), minlength=bins)
        assert np.array_equal(counts, np.histogram(typed.astype(float), bins=bins, range=(0, 1))[0])


def test_blank_slices_are_equal_and_share_nothing_with_a_busy_one():
    a, _ = pair_of_images(4)
    pairs = MutualInformation(slices_of([np.zeros_like(a), np.zeros_like(a), a]))
    assert pairs.distances(0, np.array([1, 2])).tolist() == [0.0, 1.0]


def test_entropy_drops_the_poorest_and_follows_changes():
    entropy = np.array([0.0, 0.5, 3.0, 3.02, 3.5, 3.55, 0.9])
    slices = slices_of([np.zeros((2, 2))] * 7, entropy=entropy)
    assert Entropy(slices).decide(None, None).keep.tolist() == [False, False, True, True, True, True, False]
    assert np.flatnonzero(Entropy(slices).decide(2, None).keep).tolist() == [4, 5]
    changes = Entropy(slices, form="change").decide(None, 0.1)
    assert np.flatnonzero(changes.keep).tolist() == [0, 1, 2, 4, 6]
    assert changes.twin.tolist() == [-1, -1, -1, 2, -1, 4, -1]
    assert Entropy(slices, form="change").decide(3, None).num_kept == 3


def test_a_change_of_entropy_is_counted_from_the_slice_kept_last_in_the_volume():
    drift = np.array([0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.0] * 2)  # in eighths of a bit, which floats hold exactly
    slices = replace(slices_of([np.zeros((2, 2))] * 14, entropy=drift), volume=np.repeat([0, 1], 7))
    changes = Entropy(slices, form="change").decide(None, 0.2)
    assert np.flatnonzero(changes.keep).tolist() == [0, 2, 4, 6, 7, 9, 11, 13]
    assert changes.twin.tolist() == [-1, 0, -1, 2, -1, 4, -1, -1, 7, -1, 9, -1, 11, -1]
    assert changes.distance[~changes.keep].tolist() == [0.125, 0.125, 0.0] * 2
    # exactly the threshold is not a change
    assert np.flatnonzero(Entropy(slices, form="change").decide(None, 0.125).keep).tolist() == [0, 2, 4, 6, 7, 9, 11, 13]


@pytest.mark.parametrize("num, count", [(10, 3), (10, 10), (10, 0), (7, 1), (1000, 333)])
def test_every_n_at_a_count_is_exact_and_even(num, count):
    mask = evenly(num, count)
    assert mask.sum() == count
    if count > 1:
        gaps = np.diff(np.flatnonzero(mask))
        assert gaps.max() - gaps.min() <= 1


def test_a_lot_depends_on_seed_and_id_only():
    slices = slices_of([np.zeros((2, 2))] * 40)
    kept = set(slices.ids[RandomN(slices, n=4).decide(None, None).keep])
    assert len(kept) == 10
    order = rng(0, "order").permutation(40)
    mixed = Slices(slices.ids[order], slices.volume, slices.neighbours)
    assert set(mixed.ids[RandomN(mixed, n=4).decide(None, None).keep]) == kept
    other = Slices(slices.ids, slices.volume, slices.neighbours, seed=1)
    assert set(other.ids[RandomN(other, n=4).decide(None, None).keep]) != kept


def hash_slices(num: int) -> Slices:
    generator = rng(0, "walk")
    steps = np.uint64(1) << generator.integers(0, 64, (num, 2)).astype(np.uint64)
    codes = np.bitwise_xor.accumulate(steps[:, 0] ^ steps[:, 1])
    return slices_of([np.zeros((2, 2))] * num, dhash_8_0=codes)


@pytest.mark.parametrize("count", [1, 2, 5, 17, 40, 99, 100])
def test_any_count_is_met_and_every_twin_is_kept_and_near(count):
    pairs = Hash(hash_slices(100))
    decision, threshold = nearest_threshold(lambda t: TRAVERSALS["greedy"](pairs, t), count, highest=64, whole_steps=True)
    assert decision.num_kept <= count
    if threshold > 0:
        assert TRAVERSALS["greedy"](pairs, threshold - 1).num_kept >= decision.num_kept
    final = exactly(decision, count, pairs.slices)
    assert final.num_kept == count
    named = np.flatnonzero(final.twin != NO_TWIN)
    assert final.keep[final.twin[named]].all() and (final.distance[named] <= threshold).all() and not final.keep[named].any()
    assert ((final.reason == "kept") == final.keep).all()


def test_too_many_keepers_are_trimmed_by_how_few_they_stand_for():
    slices = Slices(np.arange(9).astype(object), np.repeat([0, 1, 2], 3), np.ones(9, bool), {"dhash_8_0": np.zeros(9, np.uint64)})
    decision = TRAVERSALS["greedy"](Hash(slices), 64)
    final = exactly(decision, 2, slices)
    assert decision.num_kept == 3 and final.num_kept == 2
    assert (final.reason == "budget").sum() == 3 and (final.twin[final.reason == "budget"] == NO_TWIN).all()


def test_ties_in_a_rank_fall_by_the_seed():
    slices = slices_of([np.zeros((2, 2))] * 20)
    assert lowest(np.zeros(20), 5, slices).sum() == 5
    assert not np.array_equal(np.flatnonzero(lowest(np.zeros(20), 5, slices)), np.arange(5))


def test_held_values_stay_below_the_limit():
    made = []
    held = SliceCache(lambda i: made.append(i) or np.zeros(1 << 18, np.uint8), lambda v: v.nbytes, 1)
    for _ in range(3):
        for index in range(6):
            held(index)
    assert len(held._values) <= 4 and held._used <= 1 << 20
    assert len(made) < 18, "what fits is not made again"
    for index in range(100, 112):
        held(index)
    assert 111 in held._values or 110 in held._values, "another volume's turn empties the memory"
