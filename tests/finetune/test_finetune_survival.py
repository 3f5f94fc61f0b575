"""Survival analysis on spheres whose hazard grows with their radius: the loss, the probe, fits, and labels that are refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from finetuning import discs, finetune, finetune_spec, follow_up, scratch_model, write_discs

from medssl.artefacts.fits import FITS
from medssl.core import tables
from medssl.core.errors import StudyError
from medssl.finetune.cox import cox_loss, cox_probe
from medssl.finetune.numbers import timed
from medssl.finetune.options import FinetuneOptions
from medssl.finetune.probe import INVERSE_PENALTIES
from medssl.finetune.run import predict
from medssl.finetune.scoring import can_be_ordered, order_score

LIFELINES = Path(sys.prefix) / "lifelines"
"""The peer, out of sight of everything else."""
SURVIVAL = {"task": "survival", "fractions": [1.0]}
TIED = np.array([[1, 1], [1, 0], [6, 1], [6, 1], [8, 0], [9, 1]], float)
"""Test data 1 of Therneau and Grambsch, "Modeling Survival Data" (2000), appendix E: times with events, tied and censored."""
BEST = 1.676857
"""Where Efron's likelihood of these data has its maximum, as published there."""
COVARIATE = np.array([1.0, 1, 1, 0, 0, 0])


def loss_of(risks: np.ndarray, followed: np.ndarray) -> float:
    return float(cox_loss(torch.from_numpy(np.asarray(risks, float))[:, None], torch.from_numpy(followed)))


def efron(risks: np.ndarray, followed: np.ndarray) -> float:
    """The definition, term by term."""
    times, events = followed[:, 0], followed[:, 1] > 0
    total = 0.0
    for time in np.unique(times[events]):
        tied = np.exp(risks[events & (times == time)])
        whole = np.exp(risks[times >= time]).sum()
        total -= np.log(tied).sum() - sum(np.log(whole - place / len(tied) * tied.sum()) for place in range(len(tied)))
    return total / events.sum()


@pytest.mark.parametrize("beta", [0.0, 1.0, BEST])
def test_the_likelihood_of_published_data_has_its_closed_form_and_its_maximum(beta: float) -> None:
    ratio = np.exp(beta)
    closed = 2 * beta - np.log(3 * ratio + 3) - np.log(ratio + 3) - np.log(ratio / 2 + 2.5)
    assert 4 * loss_of(beta * COVARIATE, TIED) == pytest.approx(-closed)
    assert min(loss_of((BEST + step) * COVARIATE, TIED) for step in (-0.01, 0.01)) > loss_of(BEST * COVARIATE, TIED)


@pytest.mark.parametrize("ties", [1000, 4])
def test_the_loss_is_its_definition_with_and_without_ties(ties: int) -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        followed = np.stack([random.integers(1, ties, 30), random.integers(0, 2, 30)], axis=1).astype(float)
        risks = random.normal(0, 2, 30)
        assert loss_of(risks, followed) == pytest.approx(efron(risks, followed))
        order = random.permutation(30)
        assert loss_of(risks[order], followed[order]) == pytest.approx(loss_of(risks, followed))
        assert loss_of(risks + 300, followed) == pytest.approx(loss_of(risks, followed))
        later = followed * [3, 1] + [7, 0]
        assert loss_of(risks, later) == pytest.approx(loss_of(risks, followed)), "only the order of times counts"


def test_risks_far_apart_have_a_finite_loss_and_slope() -> None:
    risks = torch.tensor([[0.0], [800.0], [-800.0], [5.0]], dtype=torch.float64, requires_grad=True)
    loss = cox_loss(risks, torch.tensor([[1.0, 1], [2, 1], [2, 1], [3, 0]]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(risks.grad).all() and risks.grad.sum().abs() < 1e-9


def test_a_batch_without_an_event_has_no_gradient() -> None:
    risks = torch.randn(4, 1, requires_grad=True)
    loss = cox_loss(risks, torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0]]))
    loss.backward()
    assert loss == 0 and (risks.grad == 0).all()


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different scales, and times whose hazard depends on the first two."""
    random = np.random.default_rng(seed)
    features = random.normal(3, [1, 20, 0.1, 1], (count, 4)).astype(np.float32)
    times = random.exponential(np.exp(-(features[:, 0] - 0.05 * features[:, 1])))
    ends = random.exponential(2 * np.median(times), count)
    return features, np.stack([np.minimum(times, ends), times <= ends], axis=1).astype(float)


def test_the_probe_is_that_of_lifelines_under_every_penalty() -> None:
    """Which divides the likelihood by the number of cases, and features by their deviation over n - 1."""
    if not LIFELINES.is_dir():
        pytest.skip("lifelines is not there: make test installs it beside the environment")
    sys.path.append(str(LIFELINES))
    from lifelines import CoxPHFitter

    features, followed = drawn(80)
    followed[:, 0] = np.ceil(20 * followed[:, 0])  # with ties
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    table = pd.DataFrame(scaled, columns=list("abcd")).assign(T=followed[:, 0], E=followed[:, 1])
    for inverse in INVERSE_PENALTIES[1:]:
        line = cox_probe((features, followed), (features, followed), inverse_penalties=(inverse,))
        peer = CoxPHFitter(penalizer=79 / 80 / (inverse * 80)).fit(table, "T", "E")
        assert line.weight * features.std(axis=0) == pytest.approx(peer.params_.to_numpy(), abs=2e-3)
        assert line(features).mean() == pytest.approx(0, abs=1e-6)


def test_validation_chooses_the_penalty_by_the_order_of_risks() -> None:
    features, followed = drawn(120)
    train, val = (features[:30], followed[:30]), (features[30:], followed[30:])
    chosen = cox_probe(train, val)
    scores = {c: order_score(cox_probe(train, val, inverse_penalties=(c,))(val[0]), val[1]) for c in INVERSE_PENALTIES}
    assert chosen.score == pytest.approx(max(scores.values()), abs=1e-4)
    assert cox_probe(train, (val[0][:0], val[1][:0])).inverse_penalty == 1e-2


def test_the_order_of_cases_is_known_by_an_event_and_a_later_time() -> None:
    followed = np.array([[1, 1], [1, 0], [2, 0], [3, 1]], float)
    assert order_score(np.array([3.0, 2, 1, 0]), followed) == 1
    assert order_score(np.array([0.0, 1, 2, 3]), followed) == 0
    assert order_score(np.zeros(4), followed) == 0.5
    assert order_score(np.array([1.0, 2, 0, 0]), followed) == pytest.approx(2 / 3), "an event is before a censoring at its time"
    assert [can_be_ordered(followed[rows]) for rows in ([0, 1], [1, 2], [0], [3, 3], [])] == [True, False, False, False, False]


@pytest.mark.full
def test_a_full_fit_orders_spheres_by_their_hazard(tmp_path: Path) -> None:
    source = write_discs(tmp_path / "study", {"train": 120, "val": 20, "test": 80}, followed=True)
    settings = {"modes": ["full"], "max_steps": 40, "lr": 2e-2, "batch_size": 32, "augment": None}
    out = finetune(finetune_spec(source, **SURVIVAL, **settings))
    rows = tables.read_parquet(out / "predictions.parquet").query("split == 'test'")
    followed = rows[["target", "event"]].astype(float).to_numpy()
    radii = discs(220)[1][-80:]
    assert order_score(radii, followed) > 0.8, "what is to be found"
    assert order_score(rows["risk"].to_numpy(), followed) > 0.75
    assert rows["event"].tolist() == follow_up(discs(220)[1])[1][-80:].astype(int).tolist()
    assert set(FITS.read(out / FITS.file)["selection"]) == {"validation Harrell's C"}


@pytest.mark.parametrize("mode", [pytest.param("linear", marks=pytest.mark.full), "full"])
def test_the_mean_training_case_has_risk_zero(mode: str, tmp_path: Path) -> None:
    counts = {"train": 40, "val": 10, "test": 20}
    source = write_discs(tmp_path / "study", counts, followed=True, per_unit=2)
    out = finetune(finetune_spec(source, **SURVIVAL, modes=[mode], max_steps=2, options={"aggregate": "unit"}))
    written = predict(scratch_model(out), source / "samples.parquet", source / "volumes.tsv", tmp_path / "new")
    table = tables.read_tsv(written[-1])
    assert written[-1].name == "risks.tsv" and list(table) == ["case_id", "unit_id", "unit", "risk"]
    assert len(table) == sum(counts.values()) / 2
    in_training = table["case_id"].str.removeprefix("p-").astype(int) < counts["train"]
    assert table.loc[in_training, "risk"].mean() == pytest.approx(0, abs=1e-4) and table["risk"].std() > 1e-3


def samples(*rows: tuple[str | None, str | None]) -> pd.DataFrame:
    """Cases of (time, event), half of them for training."""
    ids = [f"v-{n}" for n in range(len(rows))]
    parts = ["train"] * (len(rows) // 2) + ["test"] * (len(rows) - len(rows) // 2)
    labels, events = zip(*rows, strict=True)
    return pd.DataFrame({"sample_id": ids, "volume_id": ids, "label": labels, "event": events, "split": parts})


MANY = [(str(n), "1") for n in range(1, 13)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("soon", "1"), *MANY], "'soon' is not a finite number (1 of 13 labelled cases, the first v-0)"),
        ([("0", "1"), *MANY], "'0' is not a time: it must be above 0"),
        ([("-3.5", "1"), *MANY], "'-3.5' is not a time: it must be above 0"),
        ([("inf", "0"), *MANY], "'inf' is not a finite number"),
        ([("3", "yes"), *MANY], "the event 'yes' is neither 1 (it happened) nor 0 (censored)"),
        ([("3", "2"), *MANY], "the event '2' is neither 1"),
        ([("3", None), *MANY], "there is a time and no event"),
        ([(time, "0") for time, _ in MANY], "train split: 6 cases, all of them censored; a survival analysis needs 5 events"),
        ([*MANY[:6], *((time, "0") for time, _ in MANY[6:])], "test split: 6 cases, all of them censored"),
        (
            [("7", "1")] * 12,
            "train split: of no two of 6 cases is it known which had the event first, as none was followed beyond",
        ),
        ([*MANY[:6], *[("7", "1")] * 5, ("3", "0")], "beyond the first event, at 7"),
        ([*MANY[:6], *MANY[:3], *((time, "0") for time, _ in MANY[6:9])], "test split: 6 cases, with an event in 3"),
    ],
)
def test_times_and_events_that_say_nothing_are_refused(rows: Any, words: str) -> None:
    with pytest.raises(StudyError) as caught:
        timed(samples(*rows), "ct", whole_volumes=False)
    assert words in str(caught.value)


def test_events_are_read_as_programs_write_them_beside_empty_cells() -> None:
    rows = [(time, f"{event}.0") for time, event in MANY[:10]]
    assert timed(samples(*rows, ("11", "0.0")), "ct", whole_volumes=False)[1][:, 1].sum() == 10


def test_a_table_without_events_is_refused() -> None:
    with pytest.raises(StudyError, match="has times and no events: its label table needs a column 'event'"):
        timed(samples(*MANY).drop(columns="event"), "ct", whole_volumes=False)


def test_times_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match=r"mixup: .*a mixture of two times to an event is not a time to an event"):
        FinetuneOptions(task="survival", source="ct", mixup=0.2)
