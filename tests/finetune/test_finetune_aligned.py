"""Laws of class means that move to the cases they predict, and of the class means that stand beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from finetuning import finetune_spec, receipt, write_image_source
from sklearn.linear_model import LogisticRegression

from medssl.core import tables
from medssl.core.errors import StudyError
from medssl.finetune.alignment import (
    EPSILONS,
    Means,
    Moving,
    moved,
    posteriors,
    relative_costs,
    shares,
    smoothed_shares,
    squared_distances,
    standardised,
    transport,
)
from medssl.finetune.tasks import classification

PAPER = Moving(rounds=0, rho_class=None)
DIMS, CLASSES = 24, 5


def clouds(per_class: list[int], seed: int = 0, spread: float = 0.8, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Standardised vectors around one centre for each class, in a drawn order, and their classes."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, DIMS))
    of_class = generator.permutation(np.repeat(np.arange(classes), per_class))
    return standardised(centres[of_class] + generator.normal(0, spread, (len(of_class), DIMS))), of_class


def means_of(shots: int, seed: int = 0, prior: Any = None, spread: float = 0.8) -> Means:
    """The means of some labelled cases of each class."""
    support, of_class = clouds([shots] * CLASSES, seed + 1000, spread)
    return Means.of(support, np.eye(CLASSES, dtype=np.uint8)[of_class], np.ones(CLASSES) if prior is None else prior)


def released(means: np.ndarray, queries: np.ndarray, shots: int) -> np.ndarray:
    """The class means of the authors' procedure, as loops: equal shares, a strict plan, five passes of one shot, else one."""
    start = means
    for _ in range(5 if shots == 1 else 1):
        cost = np.array([[np.sum((p - q) ** 2) for q in queries] for p in means])
        plan = np.exp(-cost / cost.max() / 0.05)
        plan /= plan.sum()
        for _ in range(20_000):
            plan *= (1 / len(means) / plan.sum(1))[:, None]
            plan *= (1 / len(queries) / plan.sum(0))[None]
        means = (plan / plan.sum(1, keepdims=True)) @ queries
    return means if shots == 1 else 0.7 * means + 0.3 * start


@pytest.mark.parametrize("shots", [1, 5])
def test_with_equal_shares_and_a_strict_plan_it_is_the_papers(shots: int) -> None:
    means, (queries, _) = means_of(shots), clouds([15] * CLASSES)
    want = released(means.places, queries, shots)
    places, prior = moved(means, queries, 0.05, PAPER)
    assert np.abs(places - want).max() < 1e-4 and np.array_equal(prior, np.full(CLASSES, 0.2))
    found, _ = means.move(queries, 0.05, PAPER, "logistic")
    peer = LogisticRegression(C=1.0, max_iter=1000).fit(want, np.arange(CLASSES)).predict_proba(queries)
    assert np.abs(found - peer).max() < 1e-4


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_a_plan_has_the_shares_of_cases_and_of_classes(epsilon: float) -> None:
    queries, _ = clouds([40, 20, 10, 5, 5])
    prior, costs = np.array([0.4, 0.1, 0.1, 0.3, 0.1]), relative_costs(means_of(5).places, queries)
    strict = transport(costs, prior, epsilon, None)
    assert np.allclose(strict.sum(1), 1 / 80, rtol=1e-12) and np.abs(strict.sum(0) - prior).sum() < 1e-3
    away = [np.abs(transport(costs, prior, epsilon, rho).sum(0) - prior).sum() for rho in (1e-6, 0.05, 1.0, 1e6)]
    assert away == sorted(away, reverse=True) and away[0] > 0.2 and away[-1] < 1e-3
    free = transport(costs, prior, epsilon, 1e-9)
    assert np.allclose(free, posteriors(costs, np.ones(CLASSES), epsilon) / 80, rtol=1e-6), "nothing holds the classes"


@pytest.mark.parametrize("epsilon", [0.005, 0.1])
@pytest.mark.parametrize("rare", [1e-2, 1e-6])
def test_a_strict_plan_of_classes_far_apart_has_very_unequal_shares(epsilon: float, rare: float) -> None:
    """Such a plan needs factors of classes that no float holds, only their logarithms."""
    of = np.arange(200) % 2
    costs = np.stack([of, 1 - of], axis=1) * np.linspace(0.8, 1, 200)[:, None]
    plan = transport(costs, np.array([rare, 1 - rare]), epsilon, None)
    assert np.allclose(plan.sum(axis=1), 1 / 200) and np.allclose(plan.sum(axis=0), [rare, 1 - rare], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_relaxed_plan_is_the_best_of_its_kind(count: int) -> None:
    """Transport cost, entropy and divergence from the shares together: no plan with the same rows has less."""
    generator = np.random.default_rng(count)
    costs, prior, epsilon, rho = generator.uniform(size=(count, 3)), np.array([0.6, 0.3, 0.1]), 0.1, 0.7

    def loss(plan: np.ndarray) -> float:
        held = plan.sum(0)
        return float((plan * costs).sum() + epsilon * (plan * np.log(plan)).sum() + rho * (held * np.log(held / prior)).sum())

    plan = transport(costs, prior, epsilon, rho)
    for _ in range(200):
        other = plan * np.exp(generator.normal(0, 0.1, plan.shape))
        other /= other.sum(1, keepdims=True) * count
        assert loss(other) > loss(plan) - 1e-6


@pytest.mark.parametrize(("share", "truth"), [(0.5, (0.01, 1.97)), (0.1, (-0.10, 0.50)), (0.02, (-0.02, 0.07))])
def test_a_rare_class_keeps_its_place(share: float, truth: tuple[float, float]) -> None:
    """Two Gaussians 2 apart, the first guesses at 0.5 and 1.6. `truth`: where equal shares pull the means.

    Estimates may start from the shares of the labelled cases or from equal ones.
    """
    rare, estimates = round(200 * share), Moving(passes=5, keep=0.0)
    settings = [(Moving(0, None, 5, 0.0), [0.5, 0.5]), (estimates, [1 - share, share]), (estimates, [0.5, 0.5])]
    places = []
    for seed in range(5):
        generator = np.random.default_rng(seed)
        queries = np.r_[generator.normal(0, 0.3, 200 - rare), generator.normal(2, 0.3, rare)][:, None]
        for how, prior in settings:
            places.append(moved(Means(np.array([[0.5], [1.6]]), np.ones(2), np.array(prior), 1.0), queries, 0.05, how)[0][:, 0])
    equal, estimated = np.mean(places[::3], axis=0), np.array(places[1::3] + places[2::3])
    assert np.abs(equal - truth).max() < 0.12, equal
    assert np.abs(estimated - (0, 2)).max() < 0.3, estimated


def test_shares_are_estimated_from_the_predicted_cases_and_none_vanishes() -> None:
    """Also from a wrong start; a class without a case keeps half of one, so it can return."""
    means, (queries, of_class) = means_of(10, spread=0.3), clouds([100, 50, 30, 20, 0], spread=0.3)
    costs = relative_costs(means.places, queries)
    found = shares(costs, np.full(CLASSES, 0.2), 0.05, 20)
    assert np.abs(found - np.bincount(of_class, minlength=CLASSES) / 200).max() < 0.03 and found[4] >= 0.5 / 200 * 0.98
    assert np.array_equal(shares(costs, means.prior, 0.05, 0), means.prior)
    assert np.allclose(smoothed_shares(np.array([7.0, 2.0, 0.0])), np.array([8, 3, 1]) / 12)


def test_one_case_alone_gets_the_inductive_answer() -> None:
    means, (queries, _) = means_of(3, prior=np.array([5.0, 1, 1, 2, 1])), clouds([10] * CLASSES)
    alone = means.stay(queries, 0.05)
    for place in (0, 7, 23):
        found, prior = means.move(queries[[place]], 0.05, Moving())
        assert np.allclose(found[0], alone[place], atol=1e-12) and np.array_equal(prior, means.prior)
    weights = means.prior * np.exp(-squared_distances(means.places, queries) / means.scale / 0.05)
    assert np.allclose(alone, weights / weights.sum(1, keepdims=True), rtol=1e-9), "each case by its own distances"
    together, _ = means.move(queries, 0.05, Moving())
    assert np.abs(together - alone).max() > 0.05, "together they are another answer"


@pytest.mark.parametrize("head", ["softmax", "logistic"])
def test_the_order_of_cases_permutes_the_answer(head: Any) -> None:
    means, (queries, _) = means_of(2), clouds([30, 10, 5, 5, 5])
    turned = np.random.default_rng(3).permutation(len(queries))
    found, again = means.move(queries, 0.05, Moving(), head)[0], means.move(queries[turned], 0.05, Moving(), head)[0]
    assert np.abs(found[turned] - again).max() < 1e-8


@pytest.mark.parametrize("shots", [1, 4])
def test_means_of_the_very_cases_stay(shots: int) -> None:
    support, of_class = clouds([shots] * CLASSES, spread=0.05)
    means = Means.of(support, np.eye(CLASSES)[of_class], np.ones(CLASSES))
    places, _ = moved(means, support, 0.02, Moving(rho_class=None))
    assert np.abs(places - means.places).max() < 1e-3


@pytest.mark.parametrize("count", [0, 1, 2, CLASSES - 1, CLASSES])
def test_fewer_cases_than_classes_are_predicted(count: int) -> None:
    means, (queries, _) = means_of(1), clouds([10] * CLASSES)
    found, _ = means.move(queries[:count], 0.02, Moving())
    assert found.shape == (count, CLASSES) and np.isfinite(found).all() and np.allclose(found.sum(1), 1)
    assert (count < CLASSES) == np.array_equal(found, means.stay(queries[:count], 0.02))


def test_a_mean_of_one_case_keeps_nothing_and_any_other_keeps_a_part() -> None:
    """Also of unequal labels: class by class."""
    support, of_class = clouds([1, 4, 4, 4, 4], 5)
    means, (queries, _) = Means.of(support, np.eye(CLASSES)[of_class], np.ones(CLASSES)), clouds([20] * CLASSES)
    free, _ = moved(means, queries, 0.05, Moving(keep=0.0))
    kept, _ = moved(means, queries, 0.05, Moving(keep=0.3))
    assert np.array_equal(kept[0], free[0])
    assert np.allclose(kept[1:], 0.7 * free[1:] + 0.3 * means.places[1:])


def test_vectors_have_mean_zero_and_deviation_one_and_a_constant_one_is_zero() -> None:
    found = standardised(np.array([[1.0, 2, 3, 6], [4, 4, 4, 4]], dtype=np.float32))
    assert np.allclose(found.mean(1), 0) and np.allclose(found.std(1), [1, 0])


SIZES = {"train": 60, "val": 30, "test": 45}
SETTINGS: dict[str, Any] = {"modes": ["aligned"], "fractions": [1.0], "counts_per_class": [1, 2]}


def rows_of(out: Path) -> pd.DataFrame:
    return tables.read_parquet(out / "predictions.parquet")


def test_the_nearest_mean_always_stands_beside_it_and_the_tables_say_which_is_transductive(
    image_source: Path, encoder: Path, finetune: Any
) -> None:
    out = finetune(finetune_spec(image_source, encoder, **SETTINGS))
    rows, fits = rows_of(out), tables.read_tsv(out / "fits.tsv")
    assert len(fits) == 2 * 2 * 3 and set(fits["mode"]) == {"aligned", "nearest_mean"}
    assert (fits["transductive"] == (fits["mode"] == "aligned")).all()
    assert set(fits["epsilon"]) <= {*EPSILONS} and set(fits["num_train"]) == {3, 6, 60}
    assert {name.split("-")[-2] for name in fits["fit_id"]} == {"c1", "c2", "1"}
    assert not (out / "models").exists() or not list((out / "models").iterdir()), "neither predicts new images"
    moved_shares = fits.loc[fits["mode"] == "aligned", "class_shares"]
    assert moved_shares.str.contains(r"^bladder: 0\.\d{3}, femur: 0\.\d{3}, liver: 0\.\d{3}$").all()
    probabilities = rows[[name for name in rows if name.startswith("prob_")]].to_numpy()
    assert np.allclose(probabilities.sum(1), 1) and (rows.groupby("fit_id").size() == 75).all()


def test_labels_of_predicted_cases_are_not_read(tmp_path: Path, finetune: Any) -> None:
    """Other test labels, and validation labels that choose nothing, give the same bits."""
    found = []
    for name in ("one", "other"):
        source = write_image_source(tmp_path / name / "2_prepare" / "organs", SIZES)
        if name == "other":
            samples = tables.read_parquet(source / "samples.parquet")
            test = samples["split"] == "test"
            samples.loc[test, "label"] = np.roll(samples.loc[test, "label"], 1)
            tables.write_parquet(source / "samples.parquet", samples)
            receipt(source, "prepare")
        rows = rows_of(finetune(finetune_spec(source, modes=["aligned"], counts_per_class=[2], fractions=[])))
        found.append(rows[rows["split"] == "test"].drop(columns=["init"]))
    assert not found[0]["target"].equals(found[1]["target"])
    assert found[0].drop(columns="target").equals(found[1].drop(columns="target"))


def test_validation_and_test_cases_are_never_predicted_together(
    tmp_path: Path, finetune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without validation images the answer for the test cases is the same."""
    monkeypatch.setattr(classification, "EPSILONS", (0.05,))
    found = []
    for val in (30, 0):
        source = write_image_source(tmp_path / str(val) / "2_prepare" / "organs", SIZES)
        samples = tables.read_parquet(source / "samples.parquet")
        kept = (samples["split"] != "val") | (np.arange(len(samples)) < 60 + val)
        tables.write_parquet(source / "samples.parquet", samples[kept])
        receipt(source, "prepare")
        out = finetune(finetune_spec(source, modes=["aligned"], counts_per_class=[5], fractions=[], options={"prior_rounds": 2}))
        fits, rows = tables.read_tsv(out / "fits.tsv"), rows_of(out)
        found.append((fits.set_index("mode").loc["aligned"], rows[(rows["split"] == "test") & (rows["mode"] == "aligned")]))
    assert str(found[1][0]["selection"]).startswith("fixed settings (no validation cases)") and found[1][0]["epsilon"] == 0.05
    assert found[0][1].reset_index(drop=True).equals(found[1][1].reset_index(drop=True))


def test_a_prior_needs_a_number_for_each_class(image_source: Path, finetune: Any) -> None:
    with pytest.raises(StudyError, match=r"options\.prior has 2 numbers, and there are 3 classes; expected a number for each"):
        finetune(finetune_spec(image_source, modes=["nearest_mean"], options={"prior": [1, 2]}))
