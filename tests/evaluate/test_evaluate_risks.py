"""Scores of predicted risks equal slow references, scikit-learn's and scipy's; curves and tests equal those of peers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_predictions import fits_of, in_folds
from scipy import stats
from sklearn.metrics import roc_auc_score
from test_evaluate_run import evaluated, finetuned, scores

from medssl.core import plugins, tables
from medssl.core.errors import CorruptArtefactError
from medssl.core.rng import rng
from medssl.evaluate.intervals import interval
from medssl.evaluate.predictions import only_test
from medssl.evaluate.risks import Followed, Risks, curves_table, kaplan_meier, log_rank, not_censored, ranks_within, thirds
from medssl.evaluate.sampled import scores_of_fit

LIFELINES = Path(sys.prefix) / "lifelines"


def followed(times: Any, events: Any, risks: Any, weights: Any) -> Followed:
    return Followed(times, events, risks, weights, float(np.median(times[events])))


def metric(name: str, sample: Followed, **options: Any) -> dict[str, np.ndarray]:
    return plugins.find("metric", name).load()(sample, **options)


def drawn(num_cases: int = 40, seed: int = 0, *, ties: bool = True, censored: bool = True) -> tuple[np.ndarray, ...]:
    """Times, events and risks that order them better than chance."""
    random = rng(seed, "risks")
    risks = random.normal(size=num_cases)
    times, ends = random.exponential(np.exp(-risks)), random.exponential(1.5, num_cases)
    events = times <= ends if censored else np.ones(num_cases, bool)
    times = np.minimum(times, ends) if censored else times
    return (np.ceil(8 * times), events, risks.round(1)) if ties else (times, events, risks)


def slow_c(times: np.ndarray, events: np.ndarray, risks: np.ndarray) -> float:
    right, pairs = 0.0, 0
    for i in range(len(times)):
        for j in range(len(times)):
            if events[i] and (times[i] < times[j] or (times[i] == times[j] and not events[j])):
                pairs += 1
                right += 1.0 if risks[i] > risks[j] else 0.5 if risks[i] == risks[j] else 0.0
    return right / pairs


@pytest.mark.parametrize("seed", range(3))
def test_the_c_index_is_counted_over_pairs_also_under_weights(seed: int) -> None:
    times, events, risks = drawn(seed=seed)
    counts = rng(seed, "counts").multinomial(40, np.full(40, 1 / 40), size=3)
    found = metric("c_index", followed(times, events, risks, counts.astype(float)))["all"]
    for row, count in zip(found, counts, strict=True):
        places = np.repeat(np.arange(40), count)
        assert row == pytest.approx(slow_c(times[places], events[places], risks[places]))


def test_perfect_reversed_and_constant_risks_have_their_closed_forms() -> None:
    times, events, _ = drawn(ties=False)
    ones = np.ones((1, 40))
    for name in ("c_index", "dynamic_auc"):
        values = [metric(name, followed(times, events, risks, ones))["all"][0] for risks in (-times, times, np.zeros(40))]
        assert values == pytest.approx([1, 0, 0.5]), name


def test_a_pair_that_censoring_hides_counts_for_nothing() -> None:
    """Of times 1 (event), 2 (censored), 3 (event): who of the last two came first is not known."""
    times, events = np.array([1.0, 2, 3]), np.array([True, False, True])
    for last in (-1.0, 9.0):
        sample = followed(times, events, np.array([10.0, 1.0, last]), np.ones((1, 3)))
        assert metric("c_index", sample)["all"][0] == 1


@pytest.mark.parametrize("time", [0.5, 1.0])
def test_without_censoring_the_area_at_a_time_is_scikit_learns(time: float) -> None:
    times, events, risks = drawn(60, ties=False, censored=False)
    weights = rng(1, "weights").integers(0, 4, size=(2, 60)).astype(float)
    found = metric("dynamic_auc", followed(times, events, risks, weights), horizons=(time,))["all"]
    for row, weight in zip(found, weights, strict=True):
        assert row == pytest.approx(roc_auc_score(times <= time, risks, sample_weight=weight))


@pytest.mark.parametrize("seed", range(3))
def test_censored_cases_are_made_up_for_by_those_with_an_event_after_them(seed: int) -> None:
    """The definition: each case counts 1 / G(T-), G by Kaplan and Meier of the censorings."""
    times, events, risks = drawn(seed=seed)
    time = float(np.median(times))
    total, right = 0.0, 0.0
    for i in np.flatnonzero(events & (times <= time)):
        free = 1.0
        for end in np.unique(times[~events & (times < times[i])]):
            gone = (~events & (times == end)).sum()
            free *= 1 - gone / ((times > end).sum() + gone)
        for j in np.flatnonzero(times > time):
            total += 1 / free
            right += (1.0 if risks[i] > risks[j] else 0.5 if risks[i] == risks[j] else 0.0) / free
    found = metric("dynamic_auc", followed(times, events, risks, np.ones((1, 40))), horizons=(time,))
    assert found["all"][0] == pytest.approx(right / total)


def test_several_times_are_a_row_each_and_their_mean() -> None:
    sample = followed(*drawn(), np.ones((1, 40)))
    found = metric("dynamic_auc", sample, horizons=(2.0, 6.0, "median"))
    assert list(found) == ["t = 2", "t = 6", "t = median", "macro"]
    assert found["macro"] == pytest.approx(np.mean([found[name] for name in list(found)[:3]], axis=0))
    assert np.isnan(metric("dynamic_auc", sample, horizons=(1e9,))["all"]).all(), "no case is known to be free of it then"


def test_curves_and_censorings_are_estimated_as_scipy_does() -> None:
    times, events, _ = drawn(50, ties=False)
    peer = stats.ecdf(stats.CensoredData(uncensored=times[events], right=times[~events])).sf
    bounds = peer.confidence_interval(method="log-log")
    curve = kaplan_meier(times, events, 0.95)
    assert curve["event_free"].to_numpy() == pytest.approx(peer.evaluate(curve["time"].to_numpy()))
    inner = curve.iloc[1:-2]
    for name, end in (("low", bounds.low), ("high", bounds.high)):
        assert inner[name].to_numpy() == pytest.approx(end.evaluate(inner["time"].to_numpy())), name
    of_ends = stats.ecdf(stats.CensoredData(uncensored=times[~events], right=times[events])).sf
    assert not_censored(times, events, np.ones((1, 50)))[0] == pytest.approx(of_ends.evaluate(times - 1e-9))


def test_the_log_rank_test_is_scipys_of_two_groups_and_that_of_lifelines_of_three() -> None:
    times, events, risks = drawn(60)
    two = (risks > 0).astype(int)
    sides = [
        stats.CensoredData(uncensored=times[events & (two == side)], right=times[~events & (two == side)]) for side in (0, 1)
    ]
    assert log_rank(times, events, two) == pytest.approx(stats.logrank(*sides).pvalue)
    assert log_rank(times, np.zeros(60, bool), two) != log_rank(times, np.zeros(60, bool), two), "no event, no p"
    if LIFELINES.is_dir():
        sys.path.append(str(LIFELINES))
        from lifelines.statistics import multivariate_logrank_test
        from lifelines.utils import concordance_index

        three = np.digitize(risks, [-0.4, 0.4])
        assert log_rank(times, events, three) == pytest.approx(multivariate_logrank_test(times, three, events).p_value)
        plain = drawn(60, ties=False)
        found = metric("c_index", followed(*plain, np.ones((1, 60))))["all"][0]
        assert found == pytest.approx(concordance_index(plain[0], -plain[2], plain[1]))


def predicted(num_cases: int = 60, *, seeds: tuple[int, ...] = (0, 1), cases_per_unit: int = 1) -> pd.DataFrame:
    """Predictions of risks: scratch hardly orders the cases, the pre-trained arm does."""
    times, events, risks = drawn(num_cases // cases_per_unit, ties=False)
    times, events, risks = (np.repeat(values, cases_per_unit) for values in (times, events, risks))
    parts = []
    for arm, noise in {"scratch-resnet18": 4.0, "simclr-all-seed0": 0.3}.items():
        for seed in seeds:
            rows = {
                **{"fit_id": f"{arm}-full-1p0-s{seed}", "init": arm, "mode": "full", "fraction": 1.0, "seed": seed},
                **{"split": "test", "case_id": [f"v-{i:04d}" for i in range(num_cases)], "unit": "patient"},
                **{"unit_id": [f"p-{i // cases_per_unit:04d}" for i in range(num_cases)]},
                **{"target": [f"{time:.6g}" for time in times], "event": events.astype(np.int64)},
                "risk": risks + rng(seed, "noise", arm).normal(0, noise, num_cases),
            }
            parts.append(pd.DataFrame(rows))
    return pd.concat(parts, ignore_index=True)


def test_a_survival_analysis_has_scores_with_intervals_by_patient_and_paired_tests(tmp_path: Path) -> None:
    table = predicted(120, cases_per_unit=2)
    out = evaluated(tmp_path, finetuned(tmp_path, table, fits=fits_of(table)), task="survival")
    found = scores(out)
    assert set(found["metric"]) == {"c_index", "dynamic_auc"} and set(found["class"]) == {"all"}
    assert set(found["n"]) == {60} and set(found["unit"]) == {"patient"}
    assert ((found["low"] < found["estimate"]) & (found["estimate"] < found["high"])).all()
    events = table.drop_duplicates("unit_id")["event"].sum()
    assert set(found["n_rarer"]) == {events}
    one = table.assign(event=(table["unit_id"] == "p-0003").astype(np.int64))
    few = scores(evaluated(tmp_path / "few", finetuned(tmp_path / "few", one, fits=fits_of(one)), task="survival"))
    assert few["note"].str.contains("1 units with an event: the interval may be too narrow|undefined in").all()
    tests = tables.read_tsv(out / "comparisons.tsv", text=("class",)).set_index("metric")
    assert (tests["difference"] > 0.1).all() and (tests["p"] < 0.05).all() and tests["method"].str.startswith("bootstrap").all()
    curves = tables.read_tsv(out / "risk_groups.tsv", text=("group",))
    assert set(curves["group"]) == {"low", "middle", "high"} and set(curves["num_cases"]) == {20}
    p = curves.drop_duplicates("init").set_index("init")["p"]
    assert p["simclr-all"] < 0.001
    early = curves[(curves["init"] == "simclr-all") & (curves["time"] < 0.5)].groupby("group")["event_free"].min()
    assert early["high"] < early["middle"] < early["low"]


def test_scores_at_several_times_count_the_units_with_an_event() -> None:
    table = predicted(60)
    test = only_test(table)
    weights = np.ones((1, 60))
    areas = {"dynamic_auc": lambda sample: metric("dynamic_auc", sample, horizons=(0.3, 0.6, 1e9))}
    found = scores_of_fit(Risks.of(test), test.fits["fit_id"][0], areas, weights, test.unit, 0)
    events = table.drop_duplicates("unit_id")["event"].sum()
    assert {one.num_rarer for one in found.values()} == {events} and len(found) == 4
    assert "times in a known order" in interval(found["dynamic_auc", "t = 1e+09"], 0.95).note


def test_patients_with_several_times_have_curves_and_no_p() -> None:
    table = predicted(60, seeds=(0,))
    table["unit_id"] = [f"p-{int(name.removeprefix('v-')) // 2}" for name in table["case_id"]]
    test = only_test(table)
    found = curves_table(test, Risks.of(test), 0.95)
    assert found["p"].isna().all() and set(found["num_cases"]) == {20}


def stretched(table: pd.DataFrame, fit: str, fold: int, change: Any) -> pd.DataFrame:
    """The predictions with the risks of one fit's fold on another scale."""
    inside = (table["fit_id"] == fit) & (table["fold"] == fold)
    return table.assign(risk=table["risk"].where(~inside, change(table["risk"])))


def test_the_scale_of_the_risks_of_a_fold_changes_nothing(tmp_path: Path) -> None:
    """Each fold has a model of its own. So has each seed, which was always scored by itself."""
    table = in_folds(predicted(120, cases_per_unit=2), 3)
    other = stretched(table, "simclr-all-seed0-full-1p0-s0", 1, np.exp)
    other = stretched(other, "simclr-all-seed0-full-1p0-s1", 0, lambda risk: 1000 * risk + 7)
    one, two = (
        evaluated(tmp_path / name, finetuned(tmp_path / name, given, fits=fits_of(given)), task="survival")
        for name, given in (("one", table), ("two", other))
    )
    for name in ("scores.tsv", "comparisons.tsv", "risk_groups.tsv", "cases.parquet"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    cases = tables.read_parquet(one / "cases.parquet")
    assert "risk" not in cases and cases["risk_rank"].between(0, 1, inclusive="neither").all()
    assert cases.groupby("fit_id")["risk_rank"].mean().to_numpy() == pytest.approx(0.5)


def test_cases_of_two_folds_are_compared_by_their_ranks_and_those_of_one_model_by_their_risks() -> None:
    """The fold with the higher risks has the later events: 2 of 6 pairs are in order by risk, 2 and 4 halves by rank."""
    rows = predicted(4, seeds=(0,)).iloc[:4].assign(target=["3", "4", "1", "2"], event=1, risk=[10.0, 9.0, 0.2, 0.1])
    (fit,) = set(rows["fit_id"])
    for folds, right in (([0, 0, 1, 1], 4 / 6), ([0, 0, 0, 0], 2 / 6), (None, 2 / 6)):
        test = only_test(rows if folds is None else rows.assign(fold=folds))
        risks = Risks.of(test)
        assert metric("c_index", risks.sample(fit, np.ones((1, 4))))["all"][0] == pytest.approx(right)
        early = np.array([False, True, True, False])
        assert risks.within(early).by_fit[fit].tolist() == ([0.25, 0.75] if right > 0.5 else [9.0, 0.2])
        assert set(risks.within(early).columns(fit)) == {"event", "risk_rank" if right > 0.5 else "risk"}


def test_ranks_within_folds_are_shares_of_the_fold_and_ties_have_one() -> None:
    fold, risks = np.array([0, 1, 1, 0, 1, 1]), np.array([5.0, 1, 3, -2, 3, 9])
    assert ranks_within(fold, risks).tolist() == [0.75, 0.125, 0.5, 0.25, 0.5, 0.875]


def test_equal_risks_are_in_one_third_in_any_order_of_cases() -> None:
    table = predicted(60, seeds=(0, 1, 2))
    table["risk"] = table["risk"].round()
    names = dict(zip(sorted(set(table["case_id"])), rng(0, "order").permutation(60), strict=True))
    moved = table.assign(case_id=[f"v-{names[name]:04d}" for name in table["case_id"]])
    moved["unit_id"] = moved["case_id"]
    one, two = (curves_table(test := only_test(given), Risks.of(test), 0.95) for given in (table, moved))
    pd.testing.assert_frame_equal(one, two)
    for num_cases in range(3, 12):
        ranks = rng(num_cases, "ranks").permutation(num_cases).astype(float)
        parts = np.array_split(np.argsort(ranks), 3)
        assert [set(np.flatnonzero(thirds(ranks) == third)) for third in range(3)] == [set(part) for part in parts]
    assert thirds(np.array([0.0, 0, 0, 0, 1, 2])).tolist() == [0, 0, 0, 0, 2, 2]
    assert thirds(np.array([0.0, 1, 1, 1, 2, 3])).tolist() == [0, 1, 1, 1, 2, 2], "most of the three are in the middle"


def test_a_third_without_a_case_has_no_curve_and_no_part_in_the_test() -> None:
    table = predicted(60, seeds=(0,))
    table["risk"] = (table["risk"] > table["risk"].median()).astype(float)
    found = curves_table(test := only_test(table), Risks.of(test), 0.95)
    for (_, part), rows in zip(found.groupby("init"), test.rows.values(), strict=True):
        assert set(part["group"]) == {"low", "high"}
        followed_for = rows["target"].astype(float).to_numpy(), rows["event"].to_numpy() == 1
        assert part["p"].iloc[0] == pytest.approx(log_rank(*followed_for, rows["risk"].to_numpy().astype(int)))


def test_one_risk_for_all_makes_no_groups() -> None:
    test = only_test(predicted(30).assign(risk=0.0))
    assert curves_table(test, Risks.of(test), 0.95).empty


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"event": 2}, "needs a column 'event' of 1 and 0"),
        ({"risk": np.inf}, "60 of 60 test cases without a finite risk"),
        ({"target": "soon"}, "the target 'soon' is not a number"),
    ],
)
def test_predictions_without_risks_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CorruptArtefactError) as caught:
        Risks.of(only_test(predicted().assign(**change)))
    assert words in str(caught.value)
