"""One step of an optimiser, in pre-training and in fine-tuning: precision, backward pass, figures, clipping, update."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from medssl.nn.gather import averaged
from medssl.nn.options import Precision

FP16_SKIPS = 20
"""How many steps in a row fp16's loss scaling may skip before the gradients count as broken."""

FABRIC: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
"""Fabric's names."""


def precision_on(device: torch.device, asked: Precision) -> Precision:
    """The arithmetic on a device; `auto` is bf16 on a GPU and fp32 on a processor."""
    return asked if asked != "auto" else "bf16" if device.type == "cuda" else "fp32"


def one_device(device: torch.device, precision: Precision) -> Any:
    """Fabric for this process and one device, whatever job it runs in."""
    words = FABRIC[precision_on(device, precision)]
    return Fabric(accelerator=device.type, devices=1, precision=words, plugins=[LightningEnvironment()])


def compile_network(network: nn.Module, asked: bool | Literal["reduce-overhead"]) -> None:
    """Compile a network in place if requested."""
    if asked:
        network.compile(mode=asked if isinstance(asked, str) else None)


class Stepper:
    """A network and its optimiser under Fabric; the methods follow the order of a step.

    Args:
        fabric: knows the device, its precision, and the other processes.
        network: keeps its weights in float32; `module` is the same in the chosen precision.
        optimizer: over its parameters.
        clip_norm: largest norm of the gradient; None turns clipping off.
        apart: parameters that are clipped by their own norm.
        graphs: the network's kernels are recorded (`compile: reduce-overhead`).
    """

    def __init__(
        self,
        fabric: Any,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
        *,
        apart: Iterable[nn.Parameter] = (),
        graphs: bool = False,
    ) -> None:
        self.apart = list(apart)
        self.fabric, self.network, self.clip_norm, self.graphs = fabric, network, clip_norm, graphs
        self.device: torch.device = fabric.device
        self.module, self.optimizer = fabric.setup(network, optimizer)
        self.skipped = 0
        """consecutive steps whose gradients fp16's loss scaling discarded"""

    @property
    def scaler(self) -> Any:
        """fp16's loss scaling; None without."""
        return scaler_of(self.fabric)

    def begin(self) -> None:
        """Begin a step: the outputs of the previous step's GPU graphs may be overwritten."""
        if self.graphs:  # otherwise this would import for seconds for nothing
            torch.compiler.cudagraph_mark_step_begin()

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Add the gradients of a loss."""
        self.fabric.backward(loss)

    def figures(self, loss: Float[Tensor, ""]) -> Float64[Tensor, "2"]:
        """Mean loss over ranks and gradient norm, on the device."""
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._trained if p.grad is not None])
        return torch.stack([averaged(loss).double(), norm.double()])

    def is_sound(self, loss: float, norm: float) -> bool:
        """Whether loss and gradient norm of a step are finite; fp16's loss scaling may discard a few gradients."""
        thrown_away = self.scaler is not None and math.isfinite(loss) and not math.isfinite(norm)
        self.skipped = self.skipped + 1 if thrown_away else 0
        return math.isfinite(loss) and (math.isfinite(norm) or 0 < self.skipped <= FP16_SKIPS)

    def update(self, norm: Float[Tensor, ""]) -> None:
        """Clip by the gradient norm and step; a discarded fp16 step is not clipped."""
        if self.clip_norm is not None and self.skipped == 0:
            self._clip(self.clip_norm, norm.float())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _clip(self, most: float, norm: Float[Tensor, ""]) -> None:
        """Clip by the norm of all, or what is apart and the rest each by its own."""
        if not self.apart:
            torch.nn.utils.clip_grads_with_norm_(self._trained, most, norm)
            return
        apart = set(map(id, self.apart))
        torch.nn.utils.clip_grad_norm_(self.apart, most)
        torch.nn.utils.clip_grad_norm_([p for p in self._trained if id(p) not in apart], most)

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.network.parameters() if p.grad is not None]


def scaler_of(fabric: Any) -> Any:
    """fp16's loss scaling; None without."""
    return getattr(fabric.strategy.precision, "scaler", None)
