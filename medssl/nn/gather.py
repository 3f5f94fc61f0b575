"""Quantities of the whole batch when it is spread over processes, with gradients that equal those of one process.

Each rank takes the mean loss over its own part; DistributedDataParallel then averages the gradients over the ranks. With the
backward passes here (sums over ranks) that is the gradient of the mean loss of the whole batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped, UInt64
from torch import Tensor, nn

from medssl.nn.backbone import wide


def world_size() -> int:
    """How many processes share the batch; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(local: Shaped[Tensor, "n *rest"]) -> Shaped[Tensor, "all *rest"]:
    """`(n, …)` of every rank as one `(world · n, …)`, in rank order; differentiable."""
    if world_size() == 1:
        return local
    return _Gather.apply(local) if local.requires_grad else _gathered(local)


def gather_keys(keys: UInt64[np.ndarray, "n"], device: torch.device) -> UInt64[np.ndarray, "all"]:
    """The keys of every rank, in rank order."""
    if world_size() == 1:
        return keys
    return gather(torch.from_numpy(keys.view(np.int64)).to(device)).cpu().numpy().view(np.uint64)


def summed(local: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The sum over ranks of a tensor; differentiable."""
    return local if world_size() == 1 else _Sum.apply(local)


def averaged(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean over ranks, without gradient: for logs."""
    if world_size() == 1:
        return value.detach()
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / world_size()


def mean_of_chosen(values: Float[Tensor, "*shape"], chosen: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """A rank's part of the mean over the `chosen` values (bool, same shape) of all ranks; the mean of the parts is that mean."""
    return (values * chosen).sum() / averaged(chosen.sum().to(values)).clamp_min(1 / world_size())


def from_first(value: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Rank 0's tensor on every rank."""
    if world_size() > 1:
        value = value.contiguous()
        dist.broadcast(value, 0)
    return value


def any_rank(flag: bool, device: torch.device) -> bool:
    """True on every rank if it is true on one."""
    if world_size() == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    dist.all_reduce(votes)
    return bool(votes.item() > 0)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, local: Tensor) -> Tensor:
        context.count = len(local)
        return _gathered(local)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * context.count
        return gradient[start : start + context.count]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def _gathered(local: Tensor) -> Tensor:
    parts = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts)


class SynchronisedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batch of all ranks; torch's SyncBatchNorm refuses a CPU.

    Source: Ioffe and Szegedy, arXiv 1502.03167, algorithm 1, with both moments summed over ranks.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        return

    def forward(self, x: Float[Tensor, "n c *rest"]) -> Float[Tensor, "n c *rest"]:
        """`(n, c, …)` normalised with the statistics of all ranks while training."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        axes = [0, *range(2, x.ndim)]
        shape = (1, -1, *[1] * (x.ndim - 2))
        count = float(x.numel() // x.shape[1] * world_size())
        values = wide(x)
        mean = summed(values.sum(axes)) / count
        centred = values - mean.view(shape)
        variance = summed(centred.square().sum(axes)) / count
        with torch.no_grad():
            self._remember(mean, variance * count / (count - 1))
        scale = self.weight / torch.sqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics, if any, as torch does: without a momentum they are means over all batches."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch normalisation of `module` by one over all ranks, in place; tensors, names and hooks stay."""
    kinds: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    for norm in module.modules():
        if isinstance(norm, kinds):
            norm.__class__ = SynchronisedBatchNorm
    return module


def normalised(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of unit length in at least float32, `(n, d)`."""
    return F.normalize(wide(x), dim=1)
