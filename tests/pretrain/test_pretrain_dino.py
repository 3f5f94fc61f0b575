"""DINO against its algorithm, written out; what the teacher is, and what KoLeo must not see."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretraining import made_batch, made_objective, made_samples, step
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.nn.clustering import sinkhorn
from medssl.nn.momentum import cosine_momentum
from medssl.nn.spread import koleo

ROWS = [0, 1, 4, 9, 13, 17, 21, 30]
SMALL = {"hidden": 32, "bottleneck": 8, "prototypes": 4, "small_crops": 2}


def unit(n: int, d: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def scores(n: int, views: int, k: int, seed: int) -> Tensor:
    return (unit(n * views, 6, seed) @ unit(k, 6, 99).T).view(n, views, k)


def loss_of(objective: Any, student: Tensor, teacher: Tensor) -> float:
    batch = made_batch(made_samples(), ROWS[: len(student)], 2)
    return objective.loss({"scores": student, "wanted": teacher}, batch).value.item()


@pytest.mark.parametrize("centring", ["sinkhorn", "centre"])
@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 0.04), (0.15, 0.055), (0.3, 0.07), (0.9, 0.07)])
def test_every_crop_but_itself_predicts_each_large_one(centring: str, progress: float, temperature: float) -> None:
    objective = made_objective("dino", 2, centring=centring, **SMALL)
    objective.before_step(progress, 3)
    student, teacher = scores(5, 4, 4, 0), scores(5, 2, 4, 1)
    if centring == "centre":
        objective.centre.copy_(torch.tensor([0.3, -0.2, 0.1, 0.0]))
        target = torch.softmax((teacher - objective.centre) / temperature, 2)
    else:  # over the large crops of all images together
        target = sinkhorn(teacher.reshape(10, 4), epsilon=temperature, iterations=3).view(5, 2, 4)
    pairs = [(large, view) for large in range(2) for view in range(4) if view != large]
    terms = []
    for large, view in pairs:  # every pair of crops has the same weight
        for i in range(5):
            p = torch.exp(student[i, view] / 0.1) / torch.exp(student[i, view] / 0.1).sum()
            terms.append(-sum(float(target[i, large, j]) * math.log(float(p[j])) for j in range(4)))
    assert loss_of(objective, student, teacher) == pytest.approx(np.mean(terms), rel=1e-6)


def test_a_student_that_is_its_teacher_loses_the_entropy_of_the_targets() -> None:
    options = {"teacher_temperature": (0.1, 0.1), "temperature": 0.1, "centring": "centre"}
    objective = made_objective("dino", 2, **SMALL, **options)
    same = scores(6, 1, 4, 2)
    p = torch.softmax(same[:, 0] / 0.1, 1)
    found = loss_of(objective, same.expand(6, 4, 4).contiguous(), same.expand(6, 2, 4).contiguous())
    assert found == pytest.approx(float(-(p * p.log()).sum(1).mean()), rel=1e-6)


def test_the_teacher_follows_the_weights_and_keeps_its_own_statistics() -> None:
    samples, objective = made_samples(), made_objective("dino", 2, **SMALL, momentum=0.9)
    objective.before_step(0.25, 4)
    _, outputs = step(objective, made_batch(samples, ROWS, 2), (16, 16), samples)
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    for parameter in (*objective.backbone.parameters(), *objective.head.parameters()):
        parameter.data += 0.1
    before = copy.deepcopy(objective.teacher)
    objective.after_step({name: value.detach() for name, value in outputs.items()}, made_batch(samples, ROWS, 2), 0.25)
    m = cosine_momentum(0.9, 0.25)
    student = [*objective.backbone.parameters(), *objective.head.parameters()]
    for new, old, followed in zip(objective.teacher.parameters(), before.parameters(), student, strict=True):
        assert torch.allclose(new, m * old + (1 - m) * followed, rtol=1e-6, atol=1e-7)
    statistics = dict(objective.teacher.named_buffers())
    assert all(torch.equal(value, statistics[name]) for name, value in before.named_buffers())
    fresh = dict(made_objective("dino", 2, **SMALL).teacher.named_buffers())
    moved = [name for name in statistics if name.endswith("running_mean") and not torch.equal(statistics[name], fresh[name])]
    assert moved, "the teacher's batches moved its statistics"
    assert objective.encoder() is objective.teacher[0]


def test_the_centre_is_a_running_mean_of_the_teachers_scores() -> None:
    objective = made_objective("dino", 2, **SMALL, centring="centre", centre_momentum=0.8)
    objective.centre.fill_(1.0)
    wanted = scores(8, 2, 4, 3)
    objective.after_step({"wanted": wanted}, made_batch(made_samples(), ROWS, 2), 0.0)
    assert torch.allclose(objective.centre.double(), 0.8 + 0.2 * wanted.mean((0, 1)), atol=1e-6)


def test_prototypes_are_unit_directions_that_are_fixed_at_first_and_few_for_few_samples() -> None:
    objective = made_objective("dino", 2, **(SMALL | {"prototypes": 4096}), freeze_prototypes_frac=0.1)
    assert len(objective.head.prototypes) == 4 == len(made_samples()) // 8
    features = unit(3, objective.backbone.channels[-1], 5).float()
    before = objective.head(features)[0]
    objective.head.prototypes.data *= 7
    assert torch.allclose(objective.head(features)[0], before, atol=1e-6) and bool((before.abs() <= 1).all())
    for progress, frozen in ((0.0, True), (0.09, True), (0.1, False)):
        objective.head.prototypes.grad = torch.ones_like(objective.head.prototypes)
        objective.before_step(progress, 0)
        objective.after_backward(0)
        assert (objective.head.prototypes.grad is None) == frozen


def slow_koleo(features: Tensor, volume: list[int]) -> float:
    terms = []
    for i, own in enumerate(features):
        apart = [float((own - other).norm()) for j, other in enumerate(features) if volume[j] != volume[i]]
        if apart:
            terms.append(-math.log(min(apart)))
    return float(np.mean(terms))


def test_koleo_is_the_distance_to_the_nearest_of_another_volume() -> None:
    features, volume = unit(9, 5, 7), [0, 0, 0, 1, 1, 2, 2, 2, 3]
    found = koleo(3 * features, torch.tensor(volume))
    assert found.item() == pytest.approx(slow_koleo(features, volume), rel=1e-9)
    assert koleo(features, torch.zeros(9, dtype=torch.int64)).item() == 0


def test_equal_slices_of_one_volume_do_not_take_the_gradient_of_koleo() -> None:
    features = unit(6, 5, 8)
    features[1] = features[0]  # two slices of padding, in one volume
    features[4] = features[3] + 1e-9 * unit(1, 5, 9)[0]  # and a copy in another volume: below the floor
    features.requires_grad_()
    koleo(features, torch.tensor([0, 0, 1, 1, 2, 2])).backward()
    assert features.grad is not None and bool(features.grad.isfinite().all())
    assert float(features.grad.norm(dim=1).max()) <= 100


def test_koleo_needs_other_volumes() -> None:
    with pytest.raises(StudyError, match="koleo_weight takes neighbours of other volumes"):
        made_objective("dino", 2, samples=made_samples(volumes=1, slices=16), **SMALL, koleo_weight=0.1)
