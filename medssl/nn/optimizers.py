"""Optimisers by name, their parameter groups, and the schedule of learning rate and weight decay as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn


def build_optimizer(
    name: str,
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    beta2: float = 0.999,
    decay_norm_and_bias: bool = False,
    shares: Mapping[str, float] | None = None,
    fused: bool = True,
) -> torch.optim.Optimizer:
    """The optimiser over the parameters that need gradients; vectors (norms, biases) have weight decay only if asked.

    A group's `decays` says whether the schedule of weight decay applies to it, and `share` which part of the learning rate it
    has: that of its parameters' names in `shares`, else 1. A `fused` Adam divides fp16's loss scale out of the gradients inside
    its step, so they cannot be read or clipped before.
    """
    members: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for of, parameter in module.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 or decay_norm_and_bias
            members.setdefault((decays, (shares or {}).get(of, 1.0)), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": members[decays, share], "weight_decay": weight_decay if decays else 0.0, "decays": decays, "share": share}
        for decays, share in sorted(members, reverse=True)  # matrices first
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, beta2), fused=fused)
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, betas=(momentum, beta2), fused=fused)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    if name == "lars":
        return LARS(groups, lr=lr, momentum=momentum)
    return LAMB(groups, lr=lr, betas=(momentum, beta2))


def warmup_cosine(step: int, total: int, warmup_frac: float, final_frac: float = 0.0) -> float:
    """Factor of the learning rate at `step` of `total`: linear from 0 to 1, then a cosine to `final_frac` at the end.

    Source: Loshchilov and Hutter, arXiv 1608.03983, eq. 5, over true iterations.
    """
    warmup = round(total * warmup_frac)
    if step < warmup:
        return step / warmup
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    return final_frac + (1 - final_frac) * (1 + math.cos(math.pi * share)) / 2


def cosine_between(start: float, end: float, share: float) -> float:
    """From `start` at share 0 to `end` at share 1 along a half cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2


class TensorByTensor(torch.optim.Optimizer):
    """An optimiser that handles one tensor and its gradient at a time."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update; a closure computes the loss and its gradients before it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, group)
        return loss

    def update(self, p: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"], group: dict[str, Any]) -> None:
        """Move one tensor, in place, with the options of its group."""
        raise NotImplementedError


class LARS(TensorByTensor):
    """SGD with momentum whose step is scaled for each tensor by the ratio of its norm to its gradient's norm.

    Groups with `decays=False` take plain steps.

    Source: You, Gitman, Ginsburg, arXiv 1708.03888, algorithm 1.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 1e-3
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "decays": True})

    def update(self, p: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"], group: dict[str, Any]) -> None:
        """One tensor's update."""
        change = gradient
        if group["decays"]:
            change = change + group["weight_decay"] * p
            size, slope = p.norm(), gradient.norm()
            trust = group["trust"] * size / (slope + group["weight_decay"] * size + 1e-9)
            change = change * torch.where((size > 0) & (slope > 0), trust, 1.0)
        velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
        velocity.mul_(group["momentum"]).add_(change, alpha=group["lr"])
        p.sub_(velocity)


class LAMB(TensorByTensor):
    """Adam's direction, scaled for each tensor by the ratio of its norm to that direction's norm.

    Groups with `decays=False` take plain Adam steps.

    Source: You et al., arXiv 1904.00962, algorithm 2, with bias correction.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
        weight_decay: float = 0.0,
    ):  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "decays": True})

    def update(self, p: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"], group: dict[str, Any]) -> None:
        """One tensor's update."""
        beta1, beta2 = group["betas"]
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        mean: Tensor = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square: Tensor = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        count = state["step"].item()
        change = (mean / (1 - beta1**count)) / ((square / (1 - beta2**count)).sqrt() + group["eps"])
        if group["decays"]:
            change = change + group["weight_decay"] * p
            size, length = p.norm(), change.norm()
            change = change * torch.where((size > 0) & (length > 0), size / length, 1.0)
        p.sub_(change, alpha=group["lr"]) if isinstance(group["lr"], float) else p.sub_(group["lr"] * change)
