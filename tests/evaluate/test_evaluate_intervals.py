"""Intervals and tests equal closed forms, scipy and slow references; simulated studies are covered as often as they say."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from medssl.core.rng import rng
from medssl.evaluate.delong import components, delong
from medssl.evaluate.intervals import FEWEST_OF_CLASS, Replicates, interval, mean_of, unit_weights
from medssl.evaluate.metrics.auc import auc
from medssl.evaluate.sample import Sample, Truth, rounded_difference
from medssl.evaluate.signed_ranks import holm, signed_ranks


def replicates(values: np.ndarray, weights: np.ndarray, num_bootstrap: int) -> Replicates:
    return Replicates.of(weights @ values / weights.sum(axis=1), num_bootstrap, len(values))


def test_all_resamples_of_a_small_sample_have_the_closed_form_of_the_variance() -> None:
    values = np.array([1.0, 2.5, 4.0, 8.0])
    means = [np.mean(values[list(draw)]) for draw in itertools.product(range(4), repeat=4)]
    assert np.var(means) == pytest.approx(np.var(values) / 4, abs=1e-12)
    counts = [np.bincount(draw, minlength=4) for draw in itertools.product(range(4), repeat=4)]
    every = np.concatenate([np.ones((1, 4)), np.array(counts, float), 1 - np.eye(4)])
    found = replicates(values, every, len(counts))
    assert sorted(found.bootstrap) == pytest.approx(sorted(means), abs=1e-12)
    assert np.var(found.bootstrap) == pytest.approx(np.var(values) / 4, abs=1e-12)
    assert found.jackknife == pytest.approx([np.delete(values, place).mean() for place in range(4)], abs=1e-12)
    weights = unit_weights(3, "closed form", 4, 20_000)
    drawn = np.unique(weights[1:20_001], axis=0, return_counts=True)
    expected = {tuple(row): sum(tuple(c) == tuple(row) for c in np.array(counts)) / 256 for row in drawn[0].astype(int)}
    assert len(expected) == 35, "every multiset of 4 of 4"
    assert stats.chisquare(drawn[1], 20_000 * np.array(list(expected.values()))).pvalue > 0.001


def test_every_resample_draws_as_many_units_as_there_are() -> None:
    weights = unit_weights(0, "a", 13, 40)
    assert (weights[0] == 1).all()
    assert (weights[1:41].sum(axis=1) == 13).all()
    assert (weights[41:].sum(axis=1) == 12).all()
    assert (weights == unit_weights(0, "a", 13, 40)).all()
    assert (weights != unit_weights(0, "b", 13, 40)).any()


def test_every_unit_is_drawn_as_often_as_another() -> None:
    drawn = unit_weights(0, "units", 7, 4000)[1:4001].sum(axis=0)
    # each of 28,000 draws takes one of seven: binomial, within four standard deviations
    assert abs(drawn - 4000).max() < 4 * np.sqrt(28_000 * (1 / 7) * (6 / 7))


def test_the_interval_equals_scipys_bca_on_the_same_resamples() -> None:
    values = rng(1, "skewed").gamma(2.0, size=40)
    reference = stats.bootstrap((values,), np.mean, n_resamples=999, confidence_level=0.95, rng=np.random.default_rng(0))
    jackknife = np.array([np.delete(values, i).mean() for i in range(40)])
    same = Replicates(float(values.mean()), reference.bootstrap_distribution, jackknife, 40)
    quantile = stats.norm.ppf(0.975) / np.sqrt(40 / 39)  # what undoes the widening for small samples
    found = interval(same, float(2 * stats.t.cdf(quantile, 39) - 1))
    assert found.method == "bca"
    assert found.low == pytest.approx(reference.confidence_interval.low, abs=1e-6)
    assert found.high == pytest.approx(reference.confidence_interval.high, abs=1e-6)


def test_the_p_value_is_the_level_whose_interval_ends_at_zero() -> None:
    values = rng(2, "difference").normal(0.25, 1.0, size=60)
    sample = replicates(values, unit_weights(2, "p", 60, 20_000), 20_000)
    p = interval(sample, 0.95).p
    assert 0.001 < p < 0.5
    assert interval(sample, 1 - p).low == pytest.approx(0.0, abs=0.005)
    assert interval(sample, 1 - 1.3 * p).low > 0 > interval(sample, 1 - 0.7 * p).low


@pytest.mark.parametrize("seed", range(5))
def test_an_interval_leaves_out_zero_exactly_where_its_p_value_is_below_its_level(seed: int) -> None:
    random, undecided = rng(seed, "borderline"), 0
    for study in range(200):
        n, b = int(random.integers(8, 60)), 400
        values = random.gamma(1.5, size=n)
        values += (2.0 + 0.3 * random.normal()) * values.std(ddof=1) / np.sqrt(n) - values.mean()
        found = interval(replicates(values, unit_weights(study, "borderline", n, b), b), 0.95)
        assert (found.low > 0 or found.high < 0) == (found.p < 0.05), (found.low, found.p)
        undecided += 0.03 < found.p < 0.08
    assert undecided > 20, "the studies are to be near the border"


def test_rounding_is_not_a_difference() -> None:
    """Two arms with equal scores, one of nine fits and one of three: their means differ in the last bit."""
    values = 0.7 * rng(3, "voxels").integers(1, 40, 60)
    of_arm = [np.mean([values] * number, axis=0) for number in (9, 3)]
    assert (of_arm[0] != of_arm[1]).any(), "this is what the test is about"
    difference = rounded_difference(*of_arm)
    assert (difference == 0).all() and signed_ranks(difference) == (1.0, 0.0)
    weights = unit_weights(0, "rounding", 60, 200)
    nine, three = ([replicates(values + 1e-15 * seed, weights, 200) for seed in range(number)] for number in (9, 3))
    assert interval(mean_of(nine) - mean_of(three), 0.95).p == 1.0
    assert rounded_difference(np.array([1.0, np.nan]), np.array([0.5, 1.0]))[0] == 0.5
    tied = np.array([0.1 + 0.2, 0.3, -0.3, 0.5])
    assert signed_ranks(tied) == signed_ranks(np.array([0.3, 0.3, -0.3, 0.5]))


def test_a_class_of_few_units_is_called_rare() -> None:
    weights = unit_weights(0, "rare", 80, 300)
    values = rng(0, "rare").normal(0.6, 0.1, 80)
    common = replicates(values, weights, 300)
    rare = replace(common, num_rarer=4)
    assert interval(common, 0.95).note == ""
    assert interval(rare, 0.95).note == "4 units of the rarer class: the interval may be too narrow"
    assert (rare - common).num_rarer == mean_of([common, rare]).num_rarer == 4
    is_positive = np.arange(80) < 4
    assert "4 units" in delong([values], [values[::-1]], is_positive, 0.95).note


def test_a_difference_of_nothing_has_p_one_and_few_units_have_no_interval() -> None:
    values = np.zeros(20)
    nothing = interval(replicates(values, unit_weights(0, "0", 20, 100), 100), 0.95)
    assert nothing.p == 1.0
    assert nothing.note
    few = interval(replicates(np.arange(4.0), unit_weights(0, "4", 4, 100), 100), 0.95)
    assert np.isnan(few.low)
    assert "n = 4" in few.note


def test_few_units_are_called_few() -> None:
    values = rng(0, "few").normal(size=49)
    assert "below 50" in interval(replicates(values, unit_weights(0, "f", 49, 200), 200), 0.95).note
    values = rng(0, "few").normal(size=50)
    assert interval(replicates(values, unit_weights(0, "f", 50, 200), 200), 0.95).note == ""


def test_a_statistic_that_is_often_undefined_has_no_interval() -> None:
    bootstrap = np.where(np.arange(100) < 10, np.nan, 0.5 + np.arange(100) / 1000)
    found = interval(Replicates(0.55, bootstrap, np.full(30, 0.55), 30), 0.95)
    assert np.isnan(found.low)
    assert "undefined in 10 of 100" in found.note


def test_a_strongly_biased_statistic_keeps_its_estimate_inside_the_interval() -> None:
    bootstrap = 0.12 + 0.01 * rng(0, "biased").normal(size=500)
    found = interval(Replicates(0.07, bootstrap, np.full(80, 0.07), 80), 0.95)
    assert found.method == "normal"
    assert found.low < 0.07 < found.high
    assert "biased" in found.note


def test_seeds_are_averaged_replicate_by_replicate() -> None:
    weights = unit_weights(0, "seeds", 30, 200)
    a, b = (replicates(rng(seed, "s").normal(size=30), weights, 200) for seed in (0, 1))
    both = mean_of([a, b])
    assert both.value == pytest.approx((a.value + b.value) / 2)
    assert np.allclose(both.bootstrap, (a.bootstrap + b.bootstrap) / 2)


def scores(seed: int, n: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = rng(seed, "delong")
    truth = random.random(n) < 0.4
    a = (random.normal(size=n) + truth).round(1)
    return truth, a, (0.6 * a + random.normal(size=n)).round(1)


def slow_delong(truth: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The difference and its variance by the kernel of every pair, as the paper writes it."""

    def kernel(x: np.ndarray) -> np.ndarray:
        return (x[truth][:, None] > x[~truth][None, :]) + 0.5 * (x[truth][:, None] == x[~truth][None, :])

    v10 = [kernel(x).mean(axis=1) for x in (a, b)]
    v01 = [kernel(x).mean(axis=0) for x in (a, b)]
    s = np.cov(v10) / truth.sum() + np.cov(v01) / (~truth).sum()
    return float(kernel(a).mean() - kernel(b).mean()), float(s[0, 0] + s[1, 1] - 2 * s[0, 1])


@pytest.mark.parametrize("seed", range(4))
def test_delong_equals_the_pairwise_definition(seed: int) -> None:
    truth, a, b = scores(seed)
    found = delong([a], [b], truth, 0.95)
    difference, variance = slow_delong(truth, a, b)
    assert found.estimate == pytest.approx(difference, abs=1e-12)
    assert found.standard_error == pytest.approx(np.sqrt(variance), abs=1e-12)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(difference) / np.sqrt(variance)), abs=1e-12)
    half = stats.norm.ppf(0.975) * np.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((difference - half, difference + half), abs=1e-12)


def test_placement_values_average_to_the_mann_whitney_auc() -> None:
    truth, a, _ = scores(9)
    u = stats.mannwhitneyu(a[truth], a[~truth]).statistic
    for side in components(a, truth):
        assert side.mean() == pytest.approx(u / (truth.sum() * (~truth).sum()), abs=1e-12)


def test_delong_over_seeds_of_one_model_is_that_of_one_seed() -> None:
    truth, a, b = scores(3)
    assert delong([a, a, a], [b, b], truth, 0.95).p == pytest.approx(delong([a], [b], truth, 0.95).p, abs=1e-12)


def test_delong_and_the_paired_bootstrap_agree_on_the_standard_error() -> None:
    truth, a, b = scores(5, n=300)
    weights = unit_weights(0, "agree", 300, 1500)
    known = Truth(np.stack([~truth, truth], axis=1), ["no", "yes"], 1)
    by = [auc(Sample(known, np.stack([-x, x], axis=1), weights))["yes"] for x in (a, b)]
    found = interval(Replicates.of(by[0] - by[1], 1500, 300), 0.95)
    assert found.standard_error == pytest.approx(delong([a], [b], truth, 0.95).standard_error, rel=0.08)


def test_signed_ranks_equal_scipy_and_the_effect_is_that_of_the_definition() -> None:
    difference = rng(0, "ranks").normal(0.3, 1, 25).round(1)
    p, effect = signed_ranks(difference)
    known = difference[difference != 0]
    assert p == pytest.approx(stats.wilcoxon(known).pvalue, abs=1e-12)
    ranks = stats.rankdata(np.abs(known))
    assert effect == pytest.approx((ranks[known > 0].sum() - ranks[known < 0].sum()) / ranks.sum())
    assert signed_ranks(np.zeros(5)) == (1.0, 0.0)
    assert signed_ranks(np.array([1.0, 2.0, 3.0]))[1] == 1.0


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])
    assert holm(np.array([0.01, np.nan, 0.04])) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)


def simulated(kind: str, n: int, study: int, num_bootstrap: int) -> tuple[np.ndarray, float]:
    """Replicates of one simulated study and the truth behind it."""
    random, weights = rng(1, kind, n, study), unit_weights(study, kind, n, num_bootstrap)
    if kind == "mean":
        return weights @ random.beta(8, 2, size=n) / weights.sum(axis=1), 0.8
    # cases of either class come as they come: what resampling of cases imitates; or the fewest positives that get no note
    truth = np.arange(n) < FEWEST_OF_CLASS if kind == "rare" else random.random(n) < 0.5
    known = Truth(np.stack([~truth, truth], axis=1), ["no", "yes"], 1)
    first = random.normal(size=n) + 1.2 * truth
    second = 0.6 * first + 0.8 * random.normal(size=n)
    by = [auc(Sample(known, np.stack([-x, x], axis=1), weights))["yes"] for x in (first, second)]
    true = [stats.norm.cdf(shift / np.sqrt(2)) for shift in (1.2, 0.72)]
    return (by[0], true[0]) if kind == "auc" else (by[0] - by[1], true[0] - true[1])


@pytest.mark.parametrize(("kind", "n"), [*itertools.product(["mean", "auc", "difference"], [30, 50, 100]), ("rare", 100)])
def test_intervals_cover_the_truth_as_often_as_they_say(kind: str, n: int, request: pytest.FixtureRequest) -> None:
    full = request.config.getoption("--full")
    studies, num_bootstrap = (2000, 1000) if full else (100, 400)
    hits = 0
    for study in range(studies):
        values, truth = simulated(kind, n, study, num_bootstrap)
        found = interval(Replicates.of(values, num_bootstrap, n), 0.95)
        hits += found.low <= truth <= found.high
    low, high = (0.93, 0.97) if full else (0.88, 1.0)
    assert low <= hits / studies <= high, f"{kind}, n = {n}: {hits} of {studies}"
