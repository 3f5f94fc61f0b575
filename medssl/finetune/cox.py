"""Cox's proportional hazards: the partial likelihood as a loss, and a penalised fit on features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medssl.finetune import scoring
from medssl.finetune.probe import INVERSE_PENALTIES, Line, scale_of

MOST_ITERATIONS = 300


def cox_loss(risks: Float[Tensor, "n 1"], followed: Float[Tensor, "n 2"]) -> Float[Tensor, ""]:
    """Minus the logarithm of the partial likelihood, per event; 0 without an event. Tied events by Efron's approximation.

    It is computed on the processor in float64: cumulative sums of a GPU are not deterministic.

    Args:
        risks: logarithm of the hazard of each case, up to a common constant.
        followed: time, and 1 if the event happened then, 0 if the case was censored.

    Source: Cox, J R Stat Soc B 34:187 (1972); Efron, J Am Stat Assoc 72:557 (1977), eq. 8.2.
    """
    risk, (time, event) = risks[:, 0].cpu().double(), followed.cpu().double().T
    order = torch.argsort(time, descending=True, stable=True)
    risk, time, happened = risk[order], time[order], event[order] > 0.5
    if not happened.any():
        return 0 * risk.sum()
    _, group, size = torch.unique_consecutive(time, return_inverse=True, return_counts=True)
    last = torch.cumsum(size, 0) - 1  # everyone up to the last of a tied group is still at risk at its time
    at_risk = torch.logcumsumexp(risk, 0)[last][group]
    tied = torch.zeros(len(size), dtype=risk.dtype).index_add(0, group[happened], torch.exp(risk - at_risk)[happened])
    num_tied = torch.zeros(len(size), dtype=risk.dtype).index_add(0, group[happened], torch.ones_like(risk)[happened])
    before = _earlier_of_group(group[happened])
    share = before / num_tied[group[happened]] * tied[group[happened]]
    terms = risk[happened] - at_risk[happened] - torch.log1p(-share)
    return -terms.mean()


def _earlier_of_group(group: Tensor) -> Tensor:
    """For each member of sorted groups, how many of its group stand before it."""
    _, inverse, size = torch.unique_consecutive(group, return_inverse=True, return_counts=True)
    first = torch.cumsum(size, 0) - size
    return (torch.arange(len(group)) - first[inverse]).double()


def cox_probe(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    *,
    inverse_penalties: tuple[float, ...] = INVERSE_PENALTIES,
) -> Line:
    """Cox regression on standardised features with squared weights as penalty; C with the best validation score, then likelihood.

    C is as in `probe.linear_probe`: minus the log likelihood counts C times, against half the squared weights. The risk of the
    mean training case is 0.

    Args:
        train: features `(n, d)`, and time and event `(n, 2)`.
        val: the same of the validation cases; if they cannot be ordered, C = 0.01.
        inverse_penalties: the values of C tried, the same for every starting point.
    """
    mean, deviation = scale_of(train[0])
    scaled, followed = torch.from_numpy((train[0].astype(np.float64) - mean) / deviation), torch.from_numpy(train[1])
    chooses = scoring.can_be_ordered(val[1])
    weight, found = np.zeros(scaled.shape[1]), []
    for inverse in sorted(inverse_penalties) if chooses else (1e-2,):
        weight = _penalised(scaled, followed, inverse, weight)
        raw = weight / deviation
        line = Line(raw, float(-raw @ mean), inverse, float("nan"))
        if not chooses:
            return line
        risks = line(val[0])
        likelihood = -float(cox_loss(torch.from_numpy(risks)[:, None], torch.from_numpy(val[1])))
        found.append((scoring.order_score(risks, val[1]), likelihood, -inverse, line))
    best = max(found, key=lambda one: one[:3])
    return replace(best[3], score=best[0])


def _penalised(scaled: Tensor, followed: Tensor, inverse: float, start: np.ndarray) -> np.ndarray:
    """The weights of one penalty, by L-BFGS from those of a stronger one; the objective is convex."""
    from scipy.optimize import minimize
    from threadpoolctl import ThreadpoolController

    num_events = float(followed[:, 1].sum())

    def objective(weight: np.ndarray) -> tuple[float, np.ndarray]:
        variable = torch.from_numpy(weight).requires_grad_()
        loss = inverse * num_events * cox_loss((scaled @ variable)[:, None], followed) + variable.square().sum() / 2
        (slope,) = torch.autograd.grad(loss, variable)
        return loss.item(), slope.numpy()

    with ThreadpoolController().limit(limits=1):
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": MOST_ITERATIONS, "gtol": 1e-7})
    weights: np.ndarray = found.x
    return weights
