"""Scores of predicted numbers equal scikit-learn's and closed forms, and a regression is evaluated like every task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_predictions import fits_of
from sklearn import metrics as reference
from test_evaluate_run import evaluated, finetuned, scores

from medssl.core import plugins, tables
from medssl.core.errors import CorruptArtefactError
from medssl.core.rng import rng
from medssl.evaluate.intervals import unit_weights
from medssl.evaluate.numbers import Measured, Values, agreement_table
from medssl.evaluate.predictions import only_test

TRUE = np.array([50.0, 60.0, 60.0, 70.0, 90.0])


def metric(name: str, values: Any, weights: Any = None) -> float:
    sample = Measured(TRUE, np.asarray(values, float), np.ones((1, len(TRUE))) if weights is None else weights)
    return float(plugins.find("metric", name).load()(sample)["all"][0])


def test_scores_of_perfect_shifted_and_constant_values_have_their_closed_forms() -> None:
    """Lin's coefficient of a shift d is 2 v / (2 v + d²); of a constant all but the error are those of no skill."""
    variance = TRUE.var()
    assert [metric(name, TRUE) for name in ("absolute_error", "r2", "concordance")] == [0, 1, 1]
    assert metric("absolute_error", TRUE + 10) == 10
    assert metric("r2", TRUE + 10) == pytest.approx(1 - 100 / variance)
    assert metric("concordance", TRUE + 10) == pytest.approx(2 * variance / (2 * variance + 100))
    assert metric("r2", np.full(5, TRUE.mean())) == pytest.approx(0)
    assert metric("concordance", np.full(5, 3.0)) == pytest.approx(0)
    assert metric("concordance", 2 * TRUE.mean() - TRUE) == pytest.approx(-1)


def test_scores_equal_scikit_learns_under_any_weights() -> None:
    random = rng(1, "numbers")
    values = TRUE + random.normal(0, 5, 5)
    for counts in random.multinomial(20, np.full(5, 0.2), size=4).astype(float):
        assert metric("absolute_error", values, counts[None]) == pytest.approx(
            reference.mean_absolute_error(TRUE, values, sample_weight=counts)
        )
        assert metric("r2", values, counts[None]) == pytest.approx(reference.r2_score(TRUE, values, sample_weight=counts))


def test_where_all_true_values_are_equal_there_is_no_share_of_their_variance() -> None:
    weights = np.array([[0.0, 2.0, 3.0, 0.0, 0.0]])
    assert np.isnan(metric("r2", TRUE + 1, weights)) and metric("absolute_error", TRUE + 1, weights) == 1


def predicted(
    num_cases: int = 60, *, seeds: tuple[int, ...] = (0, 1), cases_per_unit: int = 1, shrink: float = 1.0
) -> pd.DataFrame:
    """Predictions of ages: scratch is off by about 8 years, the pre-trained arm by about 3."""
    random = rng(0, "ages")
    truth, parts = random.normal(60, 12, num_cases).round(1), []
    for arm, error in {"scratch-resnet18": 8.0, "simclr-all-seed0": 3.0}.items():
        for seed in seeds:
            noise = rng(seed, "ages", arm).normal(0, error, num_cases)
            rows = {
                **{"fit_id": f"{arm}-full-1p0-s{seed}", "init": arm, "mode": "full", "fraction": 1.0, "seed": seed},
                **{"split": "test", "case_id": [f"v-{i:04d}" for i in range(num_cases)]},
                **{"unit_id": [f"p-{i // cases_per_unit:04d}" for i in range(num_cases)], "unit": "patient"},
                **{"target": [f"{age:g}" for age in truth], "value": truth + noise},
            }
            parts.append(pd.DataFrame(rows))
    return pd.concat(parts, ignore_index=True)


def test_a_regression_has_scores_with_intervals_by_patient_and_paired_tests(tmp_path: Path) -> None:
    table = predicted(cases_per_unit=2)
    out = evaluated(tmp_path, finetuned(tmp_path, table, fits=fits_of(table)), task="regression")
    found = scores(out)
    assert set(found["metric"]) == {"absolute_error", "r2", "concordance"} and set(found["class"]) == {"all"}
    assert set(found["n"]) == {30} and set(found["unit"]) == {"patient"}
    assert ((found["low"] < found["estimate"]) & (found["estimate"] < found["high"])).all()
    row = found[(found["init"] == "simclr-all") & (found["metric"] == "absolute_error")].iloc[0]
    part = table[table["init"] == "simclr-all-seed0"]
    assert row["estimate"] == pytest.approx((part["value"] - part["target"].astype(float)).abs().mean())
    tests = tables.read_tsv(out / "comparisons.tsv", text=("class",)).query("metric == 'absolute_error'").set_index("method")
    assert (tests["difference"] < 0).all() and (tests["p"] < 0.05).all()
    assert set(tests.index.str.split(" ").str[0]) == {"bootstrap", "wilcoxon"}
    cases = tables.read_parquet(out / "cases.parquet")
    assert np.allclose(cases["absolute_error"], (cases["value"] - cases["target"].astype(float)).abs())


@pytest.mark.parametrize(("shrink", "slope"), [(1.0, 1.0), (0.5, 2.0)])
def test_the_calibration_line_has_slope_one_only_if_predictions_spread_as_far_as_the_truth(shrink: float, slope: float) -> None:
    table = predicted(4000, seeds=(0,))
    table["value"] = 60 + shrink * (table["target"].astype(float) - 60)
    test = only_test(table)
    found = agreement_table(test, Values.of(test))
    assert found["slope"].to_numpy() == pytest.approx(slope)
    assert found["intercept"].to_numpy() == pytest.approx(60 - slope * 60, abs=1e-6)
    assert len(found) == 2 * 10 and (found["num_cases"] == 400).all()
    assert (found.groupby("init")["value"].diff().dropna() > 0).all()


def test_a_fit_that_predicts_one_value_has_no_line() -> None:
    test = only_test(predicted(20).assign(value=55.0))
    found = agreement_table(test, Values.of(test))
    assert found["slope"].isna().all() and (found["value"] == 55).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": np.nan}, "60 of 60 test cases without a finite value"),
        ({"target": "old"}, "the target 'old' is not a number"),
        ({"value": None}, "has no column 'value'"),
    ],
)
def test_predictions_that_are_not_numbers_are_refused(change: dict[str, Any], words: str) -> None:
    table = predicted()
    table = table.drop(columns="value") if change.get("value", 0) is None else table.assign(**change)
    with pytest.raises(CorruptArtefactError) as caught:
        Values.of(only_test(table))
    assert words in str(caught.value)


def test_intervals_of_a_mean_absolute_error_cover_it() -> None:
    """The bootstrap of patients, on numbers drawn with a known error: the mean of |N(0, 1)| is sqrt(2 / π)."""
    from medssl.evaluate.intervals import interval
    from medssl.evaluate.sampled import scores_of_fit

    inside, error = 0, {"absolute_error": plugins.find("metric", "absolute_error").load()}
    weights = unit_weights(0, "numbers", 60, 200)
    for seed in range(60):
        noise = rng(seed, "cover").normal(size=60)
        values = Values(np.zeros(60), {"one": noise})
        found = scores_of_fit(values, "one", error, weights, np.arange(60), 200)["absolute_error", "all"]
        one = interval(found, 0.95)
        inside += one.low <= np.sqrt(2 / np.pi) <= one.high
    assert 52 <= inside <= 60
