"""Intervals over seeds and test units equal slow references and closed forms; simulated studies are covered as they say."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medssl.core.rng import rng
from medssl.evaluate.intervals import Interval, Replicates, Spread, interval, mean_of, unit_weights
from medssl.evaluate.seeds import SeedsOfArm, means_by_seed, spread_of, spread_of_difference


def seeds_of(values: np.ndarray, study: int = 0, num_bootstrap: int = 400) -> list[Replicates]:
    """Replicates of the mean over units of each seed; values `(seeds, units)`."""
    n = values.shape[1]
    weights = unit_weights(study, "seeds", n, num_bootstrap)
    return [Replicates.of(weights @ row / weights.sum(axis=1), num_bootstrap, n) for row in values]


def crossed(random: np.random.Generator, num: int, n: int, sd_seed: float, sd_unit: float, sd_both: float) -> np.ndarray:
    """Scores `(seeds, units)` around 0: of the seed, of the unit, of both."""
    seed, unit = random.normal(0, sd_seed, (num, 1)), random.normal(0, sd_unit, (1, n))
    return seed + unit + random.normal(0, sd_both, (num, n))


# ---- the variance


@pytest.mark.parametrize(("num", "n"), [(3, 30), (5, 12)])
def test_the_variance_is_that_of_the_analysis_of_variance(num: int, n: int) -> None:
    """Of two crossed factors: (MS of seeds + MS of units − MS of both) / (seeds · units), from sums over the table itself."""
    values = crossed(rng(0, "anova"), num, n, 0.4, 1.0, 0.7)
    grand, of_seeds, of_units = values.mean(), values.mean(axis=1), values.mean(axis=0)
    mean_square = {
        "seeds": n * sum((one - grand) ** 2 for one in of_seeds) / (num - 1),
        "units": num * sum((one - grand) ** 2 for one in of_units) / (n - 1),
        "both": sum((values[s, u] - of_seeds[s] - of_units[u] + grand) ** 2 for s in range(num) for u in range(n))
        / ((num - 1) * (n - 1)),
    }
    expected = (mean_square["seeds"] + mean_square["units"] - mean_square["both"]) / (num * n)
    seeds = seeds_of(values, num_bootstrap=20_000)
    found = spread_of(seeds)
    assert found is not None and (found.num, found.freedom) == (num, num - 1)
    assert found.variance == pytest.approx(mean_square["seeds"] / (num * n), rel=1e-9)
    assert found.of_units == pytest.approx(mean_square["both"] / (num * n), rel=0.03)
    of_units_alone = np.var(mean_of(seeds).bootstrap, ddof=1) * n / (n - 1)
    assert found.variance + of_units_alone - found.of_units == pytest.approx(expected, rel=0.03)


def test_drawing_three_seeds_has_two_thirds_of_their_variance() -> None:
    """What a bootstrap over seeds would do, every draw of it: the reason why it is written down with R − 1 instead."""
    means = np.array([0.61, 0.70, 0.66])
    drawn = [means[list(draw)].mean() for draw in itertools.product(range(3), repeat=3)]
    assert len({tuple(sorted(draw)) for draw in itertools.product(range(3), repeat=3)}) == 10
    spread = spread_of([Replicates(m, np.full(50, m) + 0.01 * rng(0, "b").normal(size=50), np.full(30, m), 30) for m in means])
    assert spread is not None
    assert spread.variance * 2 / 3 == pytest.approx(np.var(drawn), rel=1e-12)


def test_a_bootstrap_over_both_counts_what_is_of_both_three_times() -> None:
    """Seeds and units drawn by hand: (R − 1)/R of the seeds, the units, and three times what is of both (Owen 2007)."""
    num, n, draws = 4, 25, 20_000
    values = crossed(rng(1, "pigeonhole"), num, n, 0.3, 0.5, 1.0)
    random = rng(1, "draws")
    by_hand = np.empty(draws)
    for b in range(draws):
        rows, columns = random.integers(0, num, num), random.integers(0, n, n)
        by_hand[b] = values[np.ix_(rows, columns)].mean()
    seeds = seeds_of(values, num_bootstrap=draws)
    spread = spread_of(seeds)
    assert spread is not None
    units = np.var(mean_of(seeds).bootstrap)
    inside = np.mean([np.var(values[s] - values.mean(axis=0)) for s in range(num)]) / (num * n)
    assert np.var(by_hand) == pytest.approx(spread.variance * (num - 1) / num + units + inside, rel=0.05)


# ---- the interval


def made(
    values: np.ndarray, study: int = 0, confidence: float = 0.95, num_bootstrap: int = 400
) -> tuple[Interval, Interval, Spread]:
    """Over units alone, over units and seeds, and the spread."""
    seeds = seeds_of(values, study, num_bootstrap)
    spread = spread_of(seeds)
    assert spread is not None
    return interval(mean_of(seeds), confidence), interval(mean_of(seeds), confidence, spread), spread


def test_seeds_that_do_not_differ_leave_the_interval_as_it_is() -> None:
    values = np.repeat(rng(0, "same").beta(8, 2, (1, 40)), 3, axis=0)
    alone, both, spread = made(values)
    assert spread.variance == 0
    assert (both.low, both.high, both.p, both.method) == (alone.low, alone.high, alone.p, "bca")
    assert (alone.num_seeds, both.num_seeds) == (0, 3)


@pytest.mark.parametrize("n", range(5, 12))
def test_any_number_of_units_from_five_has_an_interval_over_units_and_seeds(n: int) -> None:
    values = crossed(rng(n, "few"), 3, n, 0.3, 1.0, 0.5)
    _, both, _ = made(values - values.mean() + 0.1, num_bootstrap=200)
    assert both.low < 0.1 < both.high and 0 < both.p < 1 and both.num_seeds == 3


def test_where_seeds_are_all_that_varies_the_interval_is_students() -> None:
    values = np.array([[0.61], [0.70], [0.66], [0.75]]) + 1e-6 * rng(0, "flat").normal(size=(4, 30))
    _, both, _ = made(values)
    means = values.mean(axis=1)
    expected = stats.t.interval(0.95, 3, means.mean(), means.std(ddof=1) / 2)
    assert (both.low, both.high) == pytest.approx(expected, abs=1e-5)
    assert both.p == pytest.approx(max(1 / 401, stats.ttest_1samp(means, 0).pvalue), rel=1e-3)
    near = interval(mean_of(seeds_of(values - 0.62)), 0.95, spread_of(seeds_of(values - 0.62)))
    assert near.p == pytest.approx(stats.ttest_1samp(means, 0.62).pvalue, rel=1e-3)


def test_the_interval_of_a_score_near_its_limit_ends_there() -> None:
    """Three seeds of an AUC of 0.99, 0.90 and 0.98: Student's interval reaches 1.08."""
    values = np.array([[0.99], [0.90], [0.98]]) + 1e-6 * rng(0, "near 1").normal(size=(3, 30))
    _, whole, _ = made(values)
    assert whole.low > 0.8 and whole.high > 1.05
    assert whole.within((None, None)) == whole.within((0, None)) == whole
    cut = whole.within((0, 1))
    assert (cut.estimate, cut.low, cut.high, cut.p) == (whole.estimate, whole.low, 1, whole.p)
    assert cut.note.endswith("; interval cut at 1")
    both = whole.within((0.9, 1.0))
    assert (both.low, both.high) == (0.9, 1.0) and both.note.endswith("; interval cut at 0.9 and 1")


@pytest.mark.parametrize("seed", range(4))
def test_an_interval_leaves_out_zero_exactly_where_its_p_value_is_below_its_level(seed: int) -> None:
    random, undecided = rng(seed, "borderline seeds"), 0
    for study in range(50):
        num, n = int(random.integers(3, 7)), int(random.integers(8, 60))
        values = crossed(random, num, n, 0.3, 1.0, 0.5)
        error = np.sqrt(values.mean(axis=1).var(ddof=1) / num + values.mean(axis=0).var(ddof=1) / n)
        values += (2.6 + 0.8 * random.normal()) * error - values.mean()
        for confidence in (0.9, 0.95):
            _, found, _ = made(values, study, confidence)
            assert (found.low > 0 or found.high < 0) == (found.p < 1 - confidence), (found.low, found.p)
        undecided += 0.02 < found.p < 0.1
    assert undecided > 10, "the studies are to be near the border"


def test_fewer_than_three_seeds_have_no_spread() -> None:
    values = crossed(rng(0, "two"), 3, 30, 1.0, 1.0, 0.5)
    assert spread_of(seeds_of(values[:2])) is None
    assert spread_of(seeds_of(values)) is not None
    assert interval(mean_of(seeds_of(values[:2])), 0.95, spread_of(seeds_of(values[:2]))).num_seeds == 0


# ---- which seeds


def fits(arm: str, pairs: list[tuple[int | None, int]]) -> pd.DataFrame:
    """Fits by pre-training and fine-tuning seed."""
    rows = [{"fit_id": f"{arm}-{start}-{seed}", "pretrain_seed": start, "seed": seed} for start, seed in pairs]
    return pd.DataFrame(rows).astype({"pretrain_seed": "Int64"})


def test_a_seed_is_a_pre_training_with_its_fits_or_a_draw_of_scratch() -> None:
    run = SeedsOfArm.of("run", fits("run", [(s, f) for s in (0, 1, 2) for f in (0, 1)]))
    assert run.fits == {s: [f"run-{s}-0", f"run-{s}-1"] for s in (0, 1, 2)}
    assert SeedsOfArm.of("once", fits("once", [(0, 0), (0, 1), (0, 2)])).fits == {0: ["once-0-0", "once-0-1", "once-0-2"]}
    assert set(SeedsOfArm.of("scratch", fits("scratch", [(None, 4), (None, 5), (None, 6)])).fits) == {4, 5, 6}
    assert set(SeedsOfArm.of("scratch", fits("scratch", [(7, 0), (8, 0), (9, 0)])).fits) == {7, 8, 9}
    values = {fit: seeds_of(np.full((1, 6), n) + np.arange(6.0))[0] for n, fit in enumerate(itertools.chain(*run.fits.values()))}
    assert [one.value for one in means_by_seed(run, values).values()] == pytest.approx([3.0, 5.0, 7.0])


def test_seeds_are_paired_where_each_has_a_fine_tuning_seed_of_its_own() -> None:
    run = SeedsOfArm.of("run", fits("run", [(1, 1), (2, 2), (3, 3)]))
    scratch = SeedsOfArm.of("scratch", fits("scratch", [(None, 3), (None, 1), (None, 2)]))
    assert run.partners(scratch) == {1: 1, 2: 2, 3: 3}
    shared = [SeedsOfArm.of(name, fits(name, [(s, 0) for s in (0, 1, 2)])) for name in ("a", "b")]
    assert shared[0].partners(shared[1]) is None, "one fine-tuning seed for all: nothing says which belong together"
    every = SeedsOfArm.of("every", fits("every", [(s, f) for s in (1, 2, 3) for f in (1, 2, 3)]))
    assert every.partners(scratch) is None and run.partners(every) is None
    assert run.partners(SeedsOfArm.of("more", fits("more", [(None, f) for f in (1, 2, 3, 4)]))) is None


def test_what_paired_seeds_share_is_in_no_difference_and_independent_seeds_add_up() -> None:
    random = rng(0, "shared subsets")
    luck = random.normal(0, 1.0, (3, 1))
    values = [luck + crossed(random, 3, 20, 0.1, 1.0, 0.2) for _ in "ab"]
    a, b = (dict(enumerate(seeds_of(one))) for one in values)
    names = [SeedsOfArm.of(name, fits(name, [(None, s) for s in range(3)])) for name in "ab"]
    paired, note = spread_of_difference(names[0], names[1], a, b)
    apart = values[0].mean(axis=1) - values[1].mean(axis=1)
    assert paired is not None and paired.variance == pytest.approx(apart.var(ddof=1) / 3) and not note
    shared = [SeedsOfArm.of(name, fits(name, [(s, 0) for s in range(3)])) for name in "ab"]
    independent, note = spread_of_difference(shared[0], shared[1], a, b)
    parts = [one.mean(axis=1).var(ddof=1) / 3 for one in values]
    assert independent is not None and independent.variance == pytest.approx(sum(parts)) and not note
    assert independent.freedom == pytest.approx(sum(parts) ** 2 / sum(part**2 / 2 for part in parts))
    assert independent.variance > 10 * paired.variance


def test_an_arm_of_fewer_seeds_adds_none_and_is_named() -> None:
    values = crossed(rng(0, "one-sided"), 3, 20, 0.5, 1.0, 0.5)
    many = dict(enumerate(seeds_of(values)))
    run, given = (SeedsOfArm.of(name, fits(name, pairs)) for name, pairs in
                  {"run": [(0, 0), (1, 0), (2, 0)], "given": [(None, 0)]}.items())  # fmt: skip
    for order in ((run, given, many, {0: many[0]}), (given, run, {0: many[0]}, many)):
        spread, note = spread_of_difference(*order)
        assert spread is not None and spread == spread_of(list(many.values()))
        assert note == "without the spread over seeds of given: fewer than 3"
    assert spread_of_difference(given, given, {0: many[0]}, {0: many[1]}) == (None, "")


# ---- how often the truth is covered


@pytest.mark.parametrize("num", [3, 5])
def test_the_quantile_between_two_of_student_covers_best_in_normal_theory(num: int) -> None:
    """Two chi-squared variances, one with few degrees of freedom: by Satterthwaite, by Cochran, and as `_Curve.arm` has it."""
    random, studies, n = rng(0, "quantile", num), 200_000, 50
    found: dict[str, list[float]] = {"satterthwaite": [], "cochran": [], "geometric": []}
    for ratio in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0):
        estimate = random.normal(0, np.sqrt(ratio + 1), studies)
        of_seeds = ratio * random.chisquare(num - 1, studies) / (num - 1)
        of_units = random.chisquare(n - 1, studies) / (n - 1)
        error, share = np.sqrt(of_seeds + of_units), of_seeds / (of_seeds + of_units)
        few, many = (stats.t.ppf(0.975, freedom) for freedom in (num - 1, n - 1))
        freedom = error**4 / (of_seeds**2 / (num - 1) + of_units**2 / (n - 1))
        quantiles = {
            "satterthwaite": stats.t.ppf(0.975, freedom),
            "cochran": share * few + (1 - share) * many,
            "geometric": few**share * many ** (1 - share),
        }
        for name, quantile in quantiles.items():
            found[name].append(float(np.mean(np.abs(estimate) <= quantile * error)))
    assert min(found["geometric"]) > 0.943 and max(found["geometric"]) < 0.97
    if num == 3:
        assert min(found["satterthwaite"]) < 0.925 and max(found["cochran"]) > 0.97


VARIED = {
    "seeds less than units": (0.15, 1.0, 0.3),
    "seeds most of all": (1.0, 1.0, 0.5),
    "seeds hardly": (0.05, 1.0, 1.0),
}
"""Standard deviations of seeds, units and both."""


def covered(num: int, n: int, kind: str, studies: int, num_bootstrap: int, *, arms: str = "one") -> tuple[float, float]:
    """How often intervals over units alone, and over units and seeds, cover 0 in simulated studies."""
    hits = np.zeros(2)
    for study in range(studies):
        random = rng(5, kind, num, n, arms, study)
        a = crossed(random, num, n, *VARIED[kind])
        if arms == "one":
            values = seeds_of(a, study, num_bootstrap)
            mean, spread = mean_of(values), spread_of(values)
        else:
            # half of the patients' luck is the same for both arms; fine-tuning seeds too where they are paired
            both = crossed(random, num if arms == "paired" else 1, n, 0.3 if arms == "paired" else 0.0, 1.0, 0.0)
            b = crossed(random, num, n, *VARIED[kind])
            of_a, of_b = (seeds_of(one + both, study, num_bootstrap) for one in (a, b))
            pairs = [(None, s) for s in range(num)] if arms == "paired" else [(s, 0) for s in range(num)]
            names = [SeedsOfArm.of(name, fits(name, pairs)) for name in "ab"]
            mean = mean_of(of_a) - mean_of(of_b)
            spread, _ = spread_of_difference(names[0], names[1], dict(enumerate(of_a)), dict(enumerate(of_b)))
        found = [interval(mean, 0.95), interval(mean, 0.95, spread)]
        hits += [one.low <= 0 <= one.high for one in found]
    return float(hits[0] / studies), float(hits[1] / studies)


@pytest.mark.parametrize("arms", ["one", "paired", "independent"])
@pytest.mark.parametrize(("num", "n"), itertools.product([3, 5], [30, 100]))
def test_studies_of_other_seeds_and_patients_are_covered(num: int, n: int, arms: str, request: pytest.FixtureRequest) -> None:
    full = request.config.getoption("--full")
    studies, num_bootstrap = (2000, 400) if full else (60, 200)
    low, high = (0.92, 0.97) if full else (0.83, 1.0)
    for kind in VARIED if full else ["seeds most of all"]:
        alone, both = covered(num, n, kind, studies, num_bootstrap, arms=arms)
        print(f"{num} seeds, {n} units, {arms}, {kind}: units alone {alone:.3f}, with seeds {both:.3f}")
        assert low <= both <= high, f"{kind}: {both}"
        if kind == "seeds most of all":
            assert alone < 0.75, f"intervals over units alone are to cover far less: {alone}"
