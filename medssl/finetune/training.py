"""The loop of one fit: AdamW, warm-up and cosine, the best step by validation score."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medssl.core.errors import NotFiniteError
from medssl.core.rng import key, rng
from medssl.finetune.recipe import Recipe
from medssl.nn.backbone import Backbone
from medssl.nn.momentum import average


@dataclass(frozen=True)
class Trained:
    """What a fit leaves beside the network, whose weights are those of the best step."""

    best_step: int
    best_score: float
    curve: list[tuple[int, float, float]]
    """Finished steps, mean loss since the last entry, validation score (NaN without validation cases)."""


def fit(
    network: nn.Module,
    batch: Callable[[int], tuple[Tensor, ...]],
    loss: Callable[..., Tensor],
    score: Callable[[nn.Module], float],
    recipe: Recipe,
    num_steps: int,
    *,
    mode: str = "full",
    choose: bool = True,
) -> Trained:
    """Train `network` in place and leave it with the weights of its best validation score (the last, without one).

    With `recipe.ema_decay` scores and weights are those of the running mean of the weights.

    Args:
        network: has a part `backbone`; everything else is the head and takes the full learning rate from the first step.
        batch: inputs and targets of a step; a function of the step alone.
        loss: of the network's output and the targets.
        score: validation score, higher is better; NaN where there are no validation cases.
        recipe: its one learning rate, decay, warm-up, number of evaluations.
        num_steps: optimiser steps.
        mode: `full`; `gradual` (backbone frozen but for its batch-norm statistics, as in the paper's protocol, then unfrozen with
            a growing rate); `frozen` (head only: of the backbone nothing changes, statistics included).
        choose: keep the best step; else the last one, whose score is reported.

    Raises:
        NotFiniteError: the loss became NaN or infinite; nothing of that step is used.
    """
    (rate,) = recipe.lr
    groups = parameter_groups(network, recipe)
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=recipe.weight_decay, fused=True)
    evaluations = set(recipe.evaluation_steps(num_steps))
    kept = network if recipe.ema_decay is None else copy.deepcopy(network)
    best: tuple[float, int, dict[str, Tensor]] | None = None
    curve: list[tuple[int, float, float]] = []
    losses: list[float] = []
    frozen: bool | None = None
    for step in range(num_steps):
        backbone_share = {"full": 1.0, "gradual": recipe.unfrozen_at(step, num_steps), "frozen": 0.0}[mode]
        if frozen != (backbone_share == 0):
            frozen = backbone_share == 0
            network.get_submodule("backbone").requires_grad_(not frozen)
        for group in optimizer.param_groups:
            share = group["share"] * (backbone_share if group["backbone"] else 1.0)
            group["lr"] = rate * share * recipe.lr_at(step, num_steps)
        _train(network, mode)
        inputs, *targets = batch(step)
        value = loss(network(inputs), *targets)
        losses.append(float(value.detach()))
        if not math.isfinite(losses[-1]):
            raise NotFiniteError(
                f"the loss became {losses[-1]} at step {step + 1} of {num_steps}. Lower `lr` ({rate:g}) in the finetune section."
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        if recipe.ema_decay is not None:
            average(kept, network, recipe.ema_decay)
        if step + 1 in evaluations:
            calibrate(kept, (batch(num_steps + number)[0] for number in range(recipe.calibration_batches)), mode)
            current = score(kept)
            curve.append((step + 1, float(np.mean(losses)), current))
            losses.clear()
            if best is None or not choose or math.isnan(current) or current > best[0]:
                best = (current, step + 1, {name: t.detach().clone() for name, t in kept.state_dict().items()})
    network.requires_grad_(True)
    if best is None:
        raise ValueError("num_steps must be at least 1")
    network.load_state_dict(best[2])
    return Trained(best[1], best[0], curve)


def _train(network: nn.Module, mode: str) -> None:
    """Training mode, but for a backbone that is frozen."""
    network.train()
    if mode == "frozen":
        network.get_submodule("backbone").eval()


def calibrate(network: nn.Module, inputs: Iterator[Tensor], mode: str = "full") -> None:
    """Batch-norm statistics taken anew as the plain mean over some training batches, under the weights as they are.

    Those of a backbone that is frozen stay.

    The moving average lags behind weights that move fast, so that after a short fit it says more about the schedule than
    about the weights: 40 steps from scratch on the 11 organs score an AUC of 0.72 with it and 0.93 with these.

    Source: Wu and Johnson, "Rethinking Batch in BatchNorm", arXiv 2105.07576, §3 (PreciseBN).
    """
    batches, was_training = list(inputs), network.training
    _train(network, mode)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
    if batches and norms:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # of all batches alike
        with torch.no_grad():
            for images in batches:
                network(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    network.train(was_training)


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict]:
    """Groups for the optimiser: head and backbone blocks, biases and norms without weight decay.

    With layer decay d, the block k blocks below the head learns at d^k of the rate. A block is what makes one map of the map
    before, or the stem; in backbones that are put together of others, each of their parts.
    """
    depth = _blocks_below(network.get_submodule("backbone"))
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        inside = name.startswith("backbone.")
        below = depth[name.removeprefix("backbone.")] if inside else 0
        found.setdefault((below, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": members,
            "share": recipe.layer_decay**below,
            "backbone": below > 0,
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (below, decays), members in found.items()
    ]


def _blocks_below(backbone: nn.Module) -> dict[str, int]:
    """How many blocks a parameter of the backbone lies below the head."""
    names = [name for name, _ in backbone.named_parameters()]
    if isinstance(backbone, Backbone) and backbone.stage_names:
        parts = {name: backbone.part_of(name) for name in names}
        last = len(backbone.stage_names)
        return {name: 1 if part is None else last + 1 - part for name, part in parts.items()}
    blocks = list(dict.fromkeys(name.split(".")[0] for name in names))
    return {name: len(blocks) - blocks.index(name.split(".")[0]) for name in names}


def order(num_cases: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The cases of a step, int64 `(batch_size,)`: one endless row of shuffled epochs, cut into batches."""
    first = step * batch_size
    epochs = range(first // num_cases, (first + batch_size - 1) // num_cases + 1)
    row = np.concatenate([rng(seed, "order", epoch).permutation(num_cases) for epoch in epochs])
    start = first - epochs[0] * num_cases
    return row[start : start + batch_size]


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """A block in which torch's own generator is a function of names; its state outside is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, *names) >> 1)
        yield
