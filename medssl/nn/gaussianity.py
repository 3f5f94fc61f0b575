"""How far a sample of embeddings is from an isotropic Gaussian, along random directions, over the batch of all ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medssl.core.rng import rng
from medssl.nn.backbone import wide
from medssl.nn.gather import summed, world_size

LAST_KNOT = 3.0


def sigreg(z: Float[Tensor, "n d"], directions: Float[Tensor, "d m"], *, knots: int = 17) -> Float[Tensor, ""]:
    """Sketched isotropic Gaussian regularisation of the rows of all ranks: Epps and Pulley's statistic, mean over directions.

    About `expected_of_gaussian(knots)` for rows of a standard Gaussian, however many; it grows with the number of rows where
    they are not. `directions` are unit columns, the same on every rank.

    Source: Balestriero and LeCun, "LeJEPA", arXiv 2511.08544, algorithm 1; Epps and Pulley, Biometrika 70:723 (1983).
    """
    values = wide(z)
    count = len(values) * world_size()
    spacing = LAST_KNOT / (knots - 1)
    waves = summed(_SumsOfWaves.apply(values @ directions.to(values) * spacing, knots)) / count
    wanted, weight = _target(knots, values)
    distance = (waves[0] - wanted[:, None]).square() + waves[1].square()
    return count * (weight[:, None] * distance).sum(0).mean()


def expected_of_gaussian(knots: int = 17) -> float:
    """The expectation of `sigreg` over samples of a standard Gaussian: its floor.

    Per knot, n times the variance of the mean wave, E[cos² + sin²] − φ² = 1 − φ².
    """
    wanted, weight = _target(knots, torch.zeros((), dtype=torch.float64))
    return float((weight * (1 - wanted.square())).sum())


def directions_of_step(step: int, width: int, count: int, like: Float[Tensor, "..."]) -> Float[Tensor, "width count"]:
    """Unit columns drawn from the number of the step, the same on every rank."""
    drawn = rng(0, "directions", step).standard_normal((width, count))
    return F.normalize(torch.from_numpy(drawn).to(wide(like)), dim=0)


def _target(knots: int, like: Tensor) -> tuple[Float[Tensor, "knots"], Float[Tensor, "knots"]]:
    """The characteristic function of a standard Gaussian at the knots, and the weights there: trapezoids of the whole line."""
    t = torch.linspace(0, LAST_KNOT, knots, dtype=wide(like).dtype, device=like.device)
    wanted = torch.exp(-t.square() / 2)
    weight = torch.full_like(t, 2 * LAST_KNOT / (knots - 1))
    weight[[0, -1]] /= 2
    return wanted, weight * wanted


class _SumsOfWaves(torch.autograd.Function):
    """For angles `(n, m)`: the sums over rows of cos(kθ) and of sin(kθ), `(2, knots, m)`, for k = 0 … knots − 1.

    Multiples of an angle are powers of e^{iθ}, which takes one cosine and one sine each, and keeps none of the powers.
    """

    @staticmethod
    def forward(context: Any, angles: Tensor, knots: int) -> Tensor:
        turn = torch.polar(torch.ones_like(angles), angles)
        context.save_for_backward(turn)
        sums, power = [], torch.ones_like(turn)
        for _ in range(knots):
            sums.append(power.sum(0))
            power = power * turn
        total = torch.stack(sums)
        return torch.stack([total.real, total.imag])

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (turn,) = context.saved_tensors
        # d cos(kθ) = −k sin(kθ), d sin(kθ) = k cos(kθ): together −Im Σ_k k conj(g_k) e^{ikθ}, by Horner's rule
        knots = gradient.shape[1]
        total = torch.zeros_like(turn)
        for k in range(knots - 1, 0, -1):
            total = (total + k * torch.complex(gradient[0, k], -gradient[1, k])) * turn
        return -total.imag, None
