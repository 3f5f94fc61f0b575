"""SIGReg against its definition, its closed forms, and what it must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pretraining import made_batch, made_objective, made_samples
from torch import Tensor

from medssl.nn.gaussianity import directions_of_step, expected_of_gaussian, sigreg

KNOTS = [3 * j / 16 for j in range(17)]
"""linspace(0, 3, 17), as in algorithm 1 of the paper."""


def rows(n: int, d: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights() -> list[float]:
    """Trapezoids over [−3, 3] of an even function, from its half, times the window."""
    return [(1 if j in (0, 16) else 2) * 3 / 16 * math.exp(-(t**2) / 2) for j, t in enumerate(KNOTS)]


def slow(z: Tensor, directions: Tensor) -> float:
    """Algorithm 1, direction by direction and knot by knot."""
    total = []
    for direction in directions.T:
        along = (z @ direction).numpy()
        square = [
            (np.cos(t * along).mean() - math.exp(-(t**2) / 2)) ** 2 + np.sin(t * along).mean() ** 2 for t in KNOTS
        ]  # fmt: skip
        total.append(len(z) * sum(w * s for w, s in zip(weights(), square, strict=True)))
    return float(np.mean(total))


@pytest.mark.parametrize("scale", [1.0, 0.01, 30.0])
def test_it_is_the_algorithm_of_the_paper(scale: float) -> None:
    z, directions = rows(12, 5, 0, scale), directions_of_step(3, 5, 7, torch.zeros((), dtype=torch.float64))
    assert sigreg(z, directions).item() == pytest.approx(slow(z, directions), rel=1e-10)


def test_its_gradient_is_that_of_its_values() -> None:
    directions = directions_of_step(0, 4, 6, torch.zeros((), dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda z: sigreg(z, directions), rows(5, 4, 1).requires_grad_())


def test_single_precision_stays_near_far_from_the_origin() -> None:
    z, directions = rows(200, 6, 2, 20.0), directions_of_step(0, 6, 50, torch.zeros((), dtype=torch.float64))
    assert sigreg(z.float(), directions.float()).item() == pytest.approx(sigreg(z, directions).item(), rel=1e-4)


@pytest.mark.parametrize("n", [64, 256, 1024])
def test_a_gaussian_sample_of_any_size_is_at_the_floor(n: int) -> None:
    found = [sigreg(rows(n, 16, seed), directions_of_step(seed, 16, 64, rows(1, 1, 0))).item() for seed in range(20)]
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - expected_of_gaussian()) < 4 * error
    assert 0.7 < np.mean(found) < 1.3


def test_equal_rows_are_as_far_as_their_number_says() -> None:
    phi = [math.exp(-(t**2) / 2) for t in KNOTS]
    for n in (8, 80):
        found = sigreg(torch.zeros(n, 3, dtype=torch.float64), directions_of_step(0, 3, 5, rows(1, 1, 0))).item()
        assert found == pytest.approx(n * sum(w * (1 - p) ** 2 for w, p in zip(weights(), phi, strict=True)))


def test_a_rotation_of_the_embeddings_changes_little() -> None:
    z = rows(128, 8, 4) * torch.linspace(0.2, 2, 8, dtype=torch.float64)
    turn = torch.linalg.qr(rows(8, 8, 5))[0]
    directions = directions_of_step(0, 8, 4096, z)
    assert sigreg(z @ turn, directions).item() == pytest.approx(sigreg(z, directions).item(), rel=0.05)


def test_directions_have_unit_length_and_are_new_in_each_step() -> None:
    first, second = (directions_of_step(step, 6, 100, rows(1, 1, 0)) for step in (0, 1))
    assert torch.allclose(first.norm(dim=0), torch.ones(100, dtype=torch.float64))
    assert torch.equal(first, directions_of_step(0, 6, 100, rows(1, 1, 0))) and not torch.equal(first, second)


def test_the_loss_of_lejepa_is_the_papers_each_view_a_sample_of_its_own() -> None:
    objective = made_objective("lejepa", 2, small_crops=3, projector=(16, 6), directions=9, weight=0.1)
    objective.before_step(0.0, 5)
    z = rows(8 * 5, 6, 6).view(8, 5, 6)
    directions = directions_of_step(5, 6, 9, z)
    centre = z[:, :2].mean(1)
    agreement = np.mean([((centre[n] - z[n, v]) ** 2).mean().item() for n in range(8) for v in range(5)])
    spread = np.mean([slow(z[:, v], directions) for v in range(5)])
    loss = objective.loss({"z": z}, made_batch(made_samples(), list(range(8)), 2))
    assert loss.value.item() == pytest.approx(0.9 * agreement + 0.1 * spread, rel=1e-9)
    assert loss.parts["sigreg"].item() == pytest.approx(spread) and loss.parts["disagreement"].item() == pytest.approx(agreement)
