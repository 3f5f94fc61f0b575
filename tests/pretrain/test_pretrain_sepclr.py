"""SepCLR: its kernels in closed form and as loops, its pools, and that it separates what can be separated."""

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
from medssl.nn.separation import align, joint_entropy, uniformity

T = 0.5


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(a: Tensor, b: Tensor) -> float:
    return math.exp(-float((a - b).square().sum()) / (2 * T))


def test_uniformity_of_an_orthonormal_pair_is_minus_two() -> None:
    assert float(uniformity(torch.eye(2), temperature=T)) == pytest.approx(-2)


def test_joint_entropy_of_constants_is_zero() -> None:
    assert float(joint_entropy(torch.ones(5, 3), torch.zeros(5, 2), temperature=T)) == pytest.approx(0, abs=1e-6)


def test_uniformity_and_joint_entropy_are_the_loops_over_pairs() -> None:
    c, s = random(6, 3), random(6, 2, seed=1)
    pairs = [kernel(c[i], c[j]) for i in range(6) for j in range(i)]
    assert float(uniformity(c, temperature=T)) == pytest.approx(math.log(np.mean(pairs)))
    rows = [math.log(np.mean([kernel(c[i], c[j]) * kernel(s[i], s[j]) for j in range(6)])) for i in range(6)]
    assert float(joint_entropy(c, s, temperature=T)) == pytest.approx(np.mean(rows))


def test_the_loss_is_the_sum_of_the_papers_terms() -> None:
    weights = {"salient_weight": 3.0, "infoless_weight": 5.0, "joint_weight": 7.0}
    objective = made_objective("sepclr", 2, **weights)
    batch = made_batch(made_samples(), [0, 4, 8, 12, 1, 5], 2)  # volumes 0 2 0 healthy, 1 3 1 diseased
    target = [False, True, False, True, False, True]
    c, s = F.normalize(random(6, 2, 4), dim=2), random(6, 2, 3, seed=1)
    placed = s * torch.tensor(target, dtype=torch.float64)[:, None, None]

    def mean_square(rows: list[Tensor]) -> float:
        return float(np.mean([float(row.square().sum()) for row in rows])) / (2 * T)

    def pairs(a: Tensor) -> float:
        return math.log(np.mean([kernel(a[i], a[j]) for i in range(6) for j in range(i)]))

    common = mean_square([c[i, 0] - c[i, 1] for i in range(6)]) + 2 * np.mean([pairs(c[:, v]) for v in range(2)])
    salient = mean_square([s[i, 0] - s[i, 1] for i in range(6) if target[i]])
    salient += 2 * np.mean([pairs(placed[:, v]) for v in range(2)])
    infoless = mean_square([s[i, v] for i in range(6) if not target[i] for v in range(2)])
    joint = np.mean(
        [
            math.log(np.mean([kernel(c[i, v], c[j, v]) * kernel(placed[i, v], placed[j, v]) for j in range(6)]))
            for v in range(2)
            for i in range(6)
        ]
    )
    found = objective.loss({"common": c, "salient": s}, batch)
    assert float(found.value) == pytest.approx(common + 3 * salient + 5 * infoless + 7 * joint, rel=1e-9)
    assert float(found.parts["infoless_loss"]) == pytest.approx(infoless)


def test_the_background_is_pulled_to_zero_and_by_nothing_else() -> None:
    objective = made_objective("sepclr", 2)
    batch = made_batch(made_samples(), [0, 4, 8, 12], 2)
    s = random(4, 2, 3).requires_grad_()
    c = F.normalize(random(4, 2, 4), dim=2)
    objective.loss({"common": c, "salient": s}, batch).value.backward()
    background = torch.tensor([True, False, True, False])
    pulled = objective.infoless_weight * s.detach()[background] / (2 * T * 2)
    assert torch.allclose(s.grad[background], pulled)
    s.grad = None
    align(s[~background, 0], s[~background, 1], temperature=T).backward()
    assert not s.grad[background].any()
    at_rest = s.detach() * ~background[:, None, None]
    assert float(objective.loss({"common": c, "salient": at_rest}, batch).parts["infoless_loss"]) == 0


def test_half_of_every_batch_is_background() -> None:
    samples = made_samples()
    uneven = replace(samples, label=tuple("healthy" if v < 2 else None for v in samples.volume))
    objective = made_objective("sepclr", 2, samples=uneven)
    for epoch in range(3):
        batches = objective.batches(0, epoch, 8)
        assert len(batches) == 4
        for batch in batches:
            assert (uneven.volume[batch] < 2).sum() == 4 and len(set(batch.tolist())) == 8
            assert ((uneven.volume[batch] < 2) == [True, False] * 4).all()
        seen, times = np.unique(np.concatenate(batches), return_counts=True)
        assert (times[seen < 8] == 2).all() and (seen < 8).sum() == 8
        assert (times[seen >= 8] == 1).all() and (seen >= 8).sum() == 16
    with pytest.raises(StudyError, match="the background pool has 8 samples, half a batch is 10"):
        objective.batches(0, 0, 20)


def test_a_pool_may_be_a_source_and_must_be_there() -> None:
    samples = made_samples()
    volumes = tuple(replace(v, source="controls" if n < 3 else "patients") for n, v in enumerate(samples.volumes))
    by_source = replace(samples, volumes=volumes, label=(None,) * len(samples))
    objective = made_objective("sepclr", 2, samples=by_source, background="controls")
    assert objective.is_target.sum() == 20
    with pytest.raises(StudyError, match=r"0 of 32 .* background 'healthy'.* controls, patients"):
        made_objective("sepclr", 2, samples=by_source)


def test_the_salient_space_tells_the_lesion_and_the_common_space_the_body() -> None:
    """Embeddings that are trained freely: a shared factor in all images, and one that only targets have."""
    torch.manual_seed(0)
    objective = made_objective("sepclr", 2, salient_weight=1.0, infoless_weight=10.0, joint_weight=1.0)
    n = 64
    rows = list(range(0, 32))
    batch = made_batch(made_samples(), rows * 2, 2)
    target = objective.is_target[batch.rows]
    body, lesion = torch.randn(n, 2), torch.randn(n, 2) * target[:, None]
    seen = torch.cat([body, lesion], 1)
    common, salient = torch.nn.Linear(4, 3), torch.nn.Linear(4, 2)
    optimizer = torch.optim.Adam([*common.parameters(), *salient.parameters()], lr=0.02)
    for step in range(400):
        views = [seen + 0.05 * torch.randn(n, 4, generator=torch.Generator().manual_seed(2 * step + v)) for v in range(2)]
        c = torch.stack([F.normalize(common(view), dim=1) for view in views], 1)
        s = torch.stack([salient(view) for view in views], 1)
        loss = objective.loss({"common": c, "salient": s}, batch).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weight = salient.weight.detach()
    assert weight[:, 2:].norm() > 3 * weight[:, :2].norm()
    assert salient(seen)[~target].norm(dim=1).mean() < 0.3 * salient(seen)[target].norm(dim=1).mean()


def test_both_encoders_and_codes_are_kept() -> None:
    objective: Any = made_objective("sepclr", 2)
    assert set(objective.parts()) == {"salient", "common_code", "salient_code"}
    assert objective.parts()["salient"] is not objective.backbone
