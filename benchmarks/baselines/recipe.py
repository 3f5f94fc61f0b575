"""What the baselines have in common, in plain torch: the studies' schedule, weight decay and calibration; scores over seeds."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

RATE, WARMUP_FRAC = 1e-3, 0.1
Network = TypeVar("Network", bound=nn.Module)


def groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for the optimiser; biases and norms do not decay."""
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def rate_at(step: int, steps: int) -> float:
    """Share of the peak rate: linear warm-up, then half a cosine."""
    warmup = round(WARMUP_FRAC * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def calibrated(network: Network, batches: Sequence[Tensor]) -> Network:
    """The network with the batch-norm statistics of some training batches (PreciseBN)."""
    kept = copy.deepcopy(network).train()
    for module in kept.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for batch in batches:
            kept(batch)
    return kept


def mean_and_deviation(scores: Sequence[float]) -> list[float | None]:
    """Over seeds; the deviation is the sample's, and one seed has none."""
    return [round(float(np.mean(scores)), 4), round(float(np.std(scores, ddof=1)), 4) if len(scores) > 1 else None]
