"""Hydra: its loss as a double loop, its gates, and that classes which share something are alike in the subspace of their pair."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretraining import made_batch, made_objective, made_samples
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.nn.class_pairs import PairGate, gated_likeness, pair_losses
from medssl.nn.contrast import nt_xent

T = 0.2


def unit(n: int, seed: int = 0, d: int = 6) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def made(**options: Any) -> Any:
    usual: dict[str, Any] = {"projector": [8, 6], "embedding": 4, "temperature": T, "label": True}
    return made_objective("hydra", 2, **usual | options)


def outputs(n: int, gate: Tensor | None = None) -> dict[str, Tensor]:
    return {"z_a": unit(n), "z_b": unit(n, 1), "gate": torch.ones(n, 6, dtype=torch.float64) if gate is None else gate}


def by_loops(z: Tensor, k: Tensor, gate: Tensor, own: list[int], other: list[int]) -> float:
    losses = []
    for i in range(len(z)):
        s = [float(F.cosine_similarity(z[i] * gate[i], k[j] * gate[i], dim=0)) / T for j in range(len(k))]
        positives = [j for j in range(len(k)) if own[i] >= 0 and own[j] == other[i]]
        negatives = [j for j in range(len(k)) if own[j] not in (-1, own[i], other[i])]
        if own[i] < 0 or not positives or not negatives:
            continue
        each = [math.log(math.exp(s[p]) + sum(math.exp(s[q]) for q in negatives)) - s[p] for p in positives]
        losses.append(np.mean(each))
    return float(np.mean(losses)) if losses else 0.0


@pytest.mark.parametrize("pairs", ["identical", "arbitrary", "distinct"])
@pytest.mark.parametrize("gated", [False, True])
def test_the_loss_is_the_loop_over_pairs(pairs: str, gated: bool) -> None:
    labels = ["a", "b", "c", None] * 8
    samples = replace(made_samples(), label=tuple(labels))
    objective, rows = made(samples=samples, pairs=pairs, ungated=0.0), [0, 1, 2, 4, 5, 6, 3, 9]
    batch = made_batch(samples, rows, 2)
    objective.start_epoch(0, 5)
    gate = torch.rand(8, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64) if gated else None
    found = outputs(8, gate)
    own, other = objective.classes[batch.rows].tolist(), objective.drawn(batch).tolist()
    assert all(b == -1 for a, b in zip(own, other, strict=True) if a == -1)
    if pairs == "distinct":
        assert all(a != b for a, b in zip(own, other, strict=True) if a >= 0)
    expected = np.mean([by_loops(found[x], found[y], found["gate"], own, other) for x, y in (("z_a", "z_b"), ("z_b", "z_a"))])
    assert float(objective.loss(found, batch).value) == pytest.approx(expected, abs=1e-9)


def test_where_each_sample_is_a_class_it_is_nt_xent_without_the_same_view() -> None:
    samples = replace(made_samples(), label=tuple(f"c{n:02d}" for n in range(32)))
    objective, rows = made(samples=samples, pairs="identical", ungated=0.0), [3, 7, 11, 20]
    found = outputs(4)
    logits = found["z_a"] @ found["z_b"].T / T
    expected = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    assert float(objective.loss(found, made_batch(samples, rows, 2)).value) == pytest.approx(float(expected), abs=1e-9)


def test_samples_without_a_class_have_nt_xent_alone_and_no_gate_learns_from_them() -> None:
    samples = replace(made_samples(), label=(*["a", "b"], *[None] * 30))
    objective, batch = made(samples=samples, ungated=0.7), made_batch(samples, [4, 5, 6, 7], 2)
    gate = torch.rand(4, 6, dtype=torch.float64, requires_grad=True)
    loss = objective.loss(outputs(4, gate), batch)
    assert float(loss.value) == pytest.approx(0.7 * float(nt_xent(unit(4), unit(4, 1), temperature=T)), abs=1e-9)
    assert float(loss.parts["paired_share"]) == 0
    loss.value.backward()
    assert not gate.grad.any()


def test_a_learned_temperature_starts_at_the_given_one_and_is_never_sharper_than_a_hundredth() -> None:
    samples = replace(made_samples(), label=tuple(["a", "b", "c", "d"] * 8))
    plain, batch = made(samples=samples, ungated=0.0), made_batch(samples, [0, 1, 2, 3], 2)
    learned, views = made(samples=samples, ungated=0.0, learn_temperature=True), [torch.rand(4, 1, 16, 16) for _ in range(2)]
    assert "scale" not in plain(views, batch)
    scale = learned(views, batch)["scale"].detach().double()
    assert float(learned.loss(outputs(4) | {"scale": scale}, batch).value) == pytest.approx(
        float(plain.loss(outputs(4), batch).value), abs=1e-6
    )
    found = learned.loss(learned(views, batch), batch)
    found.value.backward()
    assert float(learned.scale.grad) != 0 and float(found.parts["scale"]) == pytest.approx(1 / T, rel=1e-5)
    with torch.no_grad():
        learned.scale.fill_(9)
    sharpest = learned(views, batch)["scale"]
    assert torch.allclose(sharpest, torch.tensor(100.0)) and bool(learned.loss(learned(views, batch), batch).value.isfinite())


def test_two_classes_have_no_negatives_for_a_mixed_pair_and_the_curve_says_so() -> None:
    objective, batch = made(pairs="distinct", ungated=0.0), made_batch(made_samples(), [0, 4, 8, 12], 2)
    found = objective.loss(outputs(4), batch)
    assert float(found.value) == 0 and float(found.parts["paired_share"]) == 0


def test_two_matrix_products_are_the_cosine_through_each_gate_and_nothing_overflows() -> None:
    z, k = unit(5), unit(9, 1)
    gate = torch.rand(5, 6, dtype=torch.float64)
    slow = F.cosine_similarity((z * gate)[:, None], k[None] * gate[:, None], dim=2)
    assert torch.allclose(gated_likeness(z, gate, k), slow, atol=1e-12)
    alike = torch.ones(4, 6)
    for dtype in (torch.float32, torch.bfloat16):
        likeness = 100 * gated_likeness(
            F.normalize(alike, dim=1).to(dtype), torch.rand(4, 6).to(dtype), F.normalize(alike, dim=1).to(dtype)
        )
        each, counted = pair_losses(likeness, torch.eye(4, dtype=torch.bool), ~torch.eye(4, dtype=torch.bool))
        assert bool(each.isfinite().all()) and bool(counted.all())


@pytest.mark.parametrize("fuse", [True, False])
def test_a_gate_does_not_depend_on_the_order_of_its_classes(fuse: bool) -> None:
    gate = PairGate(5, 4, 6, kind="sigmoid", fuse=fuse)
    one, other = torch.tensor([0, 1, 2, 4]), torch.tensor([3, 1, 0, 2])
    assert torch.equal(gate(one, other), gate(other, one))
    assert bool(((gate(one, other) > 0) & (gate(one, other) < 1)).all())


def test_a_stochastic_gate_is_drawn_by_step_and_sample_and_lies_between_0_and_1() -> None:
    samples, objective = made_samples(), made(gate="stochastic")
    wide, alone = made_batch(samples, [0, 5, 9], 2), made_batch(samples, [5], 2)
    assert torch.equal(objective._noise(wide)[1], objective._noise(alone)[0])
    drawn = []
    for step in range(20):
        objective.before_step(0.0, step)
        drawn.append(objective._noise(made_batch(samples, list(range(32)), 2)))
    numbers = torch.cat(drawn)
    assert abs(float(numbers.mean())) < 0.1 and abs(float(numbers.std()) - 1) < 0.1
    gate = objective.gate(torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64), objective._noise(wide))
    assert bool(((gate >= 0) & (gate <= 1)).all())


def test_other_slices_of_a_volume_are_neither_positive_nor_negative_if_asked() -> None:
    samples = replace(made_samples(), label=tuple("ab"[row % 2] for row in range(32)))
    batch = made_batch(samples, [0, 1, 2, 5], 2)  # three slices of one volume, one of another
    plain, apart = (made(samples=samples, pairs="identical", ungated=0.0, exclude_same_volume=flag) for flag in (False, True))
    found = outputs(4)
    assert float(plain.loss(found, batch).value) != float(apart.loss(found, batch).value)
    assert float(apart.loss(found, batch).parts["paired_share"]) == 0.75  # the second row has no negative in another volume


def test_classes_are_labels_levels_of_a_record_or_places() -> None:
    place = made(label=False, bins=2)
    assert place.classes.tolist()[:4] == [0, 0, 1, 1]
    sex = made(label=False, records=["sex"])
    assert sex.classes.tolist() == [-1 if np.isnan(v) else int(v) for v in made_samples().records["sex"].values]
    with pytest.raises(StudyError, match="age holds numbers"):
        made(label=False, records=["age"])
    with pytest.raises(StudyError, match="of 1 known classes"):
        made(samples=replace(made_samples(), label=("a",) * 32))


def test_the_picture_is_the_likeness_of_the_classes_mean_features() -> None:
    objective, samples = made(gate="open"), made_samples()
    batch = made_batch(samples, [0, 4, 8, 12], 2)
    for _ in range(2):
        objective.after_step(outputs(4), batch, 0.1)
    healthy, ill = unit(4)[[0, 2]].mean(0), unit(4)[[1, 3]].mean(0)
    gated, opened = objective.pictures({})
    cosine = float(F.cosine_similarity(healthy, ill, dim=0))
    assert gated.shape == opened.shape == (1, 1, 2, 2)
    assert opened[0, 0, 0, 1].item() == pytest.approx((cosine + 1) / 2, abs=1e-5) and opened[0, 0, 0, 0].item() == pytest.approx(
        1
    )
    assert torch.equal(gated, opened)


def test_two_classes_are_more_alike_in_the_subspace_of_their_pair_than_in_all_channels(request: pytest.FixtureRequest) -> None:
    """Images: one of four shapes (class) in a frame that classes 0 and 1, and classes 2 and 3, have in common.

    That holds for all pairs, also for those without a frame in common: over ten trainings these were as often the more alike.
    """
    if not request.config.getoption("--full"):
        pytest.skip("a training of 200 steps: with --full")
    random, count = np.random.default_rng(0), 256
    classes = np.arange(count) % 4
    row, column = np.mgrid[:16, :16]
    shapes = [abs(row - 8) < 2, abs(column - 8) < 2, abs(row - column) < 2, abs(row + column - 16) < 2]
    inner = (row > 2) & (row < 13) & (column > 2) & (column < 13)
    images = np.stack([np.where(inner, shapes[c], 0.3 + 0.4 * (c // 2)) for c in classes])[:, None]
    images = torch.from_numpy(images + 0.2 * random.normal(size=images.shape)).float()
    samples = replace(made_samples(count, 1), label=tuple(str(c) for c in classes))
    objective = made_objective("hydra", 2, samples=samples, label=True, projector=[32, 16], embedding=16, ungated=0.5)
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(objective.parameters(), lr=2e-3)
    for step in range(200):
        rows = random.permutation(count)[:64].tolist()
        batch = made_batch(samples, rows, 2)
        batch.epoch = step
        views = [images[rows] + 0.1 * torch.randn(64, 1, 16, 16) for _ in range(2)]
        found = objective(views, batch)
        loss = objective.loss(found, batch).value
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            objective.after_step({name: value.detach() for name, value in found.items()}, batch, step / 200)
    gated, opened = (picture[0, 0] for picture in objective.pictures({}))
    pairs = ~torch.eye(4, dtype=torch.bool)
    assert float((gated - opened)[pairs].min()) > 0.3, (gated, opened)
