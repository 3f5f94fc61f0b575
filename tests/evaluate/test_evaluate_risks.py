"""Scores of predicted risks equal slow references, scikit-learn's and scipy's; curves and tests equal those of peers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_predictions import fits_of
from scipy import stats
from sklearn.metrics import roc_auc_score
from test_evaluate_run import evaluated, finetuned, scores

from medssl.core import plugins, tables
from medssl.core.errors import CorruptArtefactError
from medssl.core.rng import rng
from medssl.evaluate.intervals import interval
from medssl.evaluate.predictions import only_test
from medssl.evaluate.risks import Followed, Risks, curves_table, kaplan_meier, log_rank, not_censored
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
    table = predicted(60)
    table["unit_id"] = [f"p-{int(name.removeprefix('v-')) // 2}" for name in table["case_id"]]
    test = only_test(table)
    found = curves_table(test, Risks.of(test), 0.95)
    assert found["p"].isna().all() and set(found["num_cases"]) == {20}


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
