"""Loss and gradient norm of each step, and whether they are finite.

On a GPU they are read some steps late, as the host would otherwise wait for every step. A step that is not finite still ends the
run with its samples: pending figures are read before anything is saved, so that no saved state holds such a step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from medssl.nn.stepping import Stepper

BEHIND = 8
"""How many steps the host may be ahead of the figures it has read."""


def steps_behind(stepper: Stepper) -> int:
    """How late figures are read: immediately on the processor and in fp16, whose loss scaling may skip a step."""
    return BEHIND if stepper.device.type == "cuda" and stepper.scaler is None else 0


@dataclass(frozen=True)
class _Step:
    number: int
    figures: Float64[Tensor, "2"]
    """Loss and gradient norm, on their way to the host."""
    arrived: Any
    """The CUDA event after which they are there; None if they already are."""
    seen: Any


class Watch:
    """The steps of a run whose figures are not read yet.

    Args:
        judge: called with loss, gradient norm, the step's samples, and its number, in the order of the steps; raises if they are
            not finite.
        behind: how many steps may wait.
    """

    def __init__(self, judge: Callable[[float, float, Any, int], None], behind: int) -> None:
        self.judge, self.behind = judge, behind
        self._waiting: deque[_Step] = deque()

    def add(self, figures: Float64[Tensor, "2"], seen: Any, step: int) -> None:
        """Send loss and gradient norm of a step to the host."""
        arrived = None
        if figures.device.type == "cuda":
            figures = figures.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._waiting.append(_Step(step, figures, arrived, seen))

    def read(self, *, everything: bool = False) -> list[tuple[float, float]]:
        """(loss, gradient norm) of the steps that are due, or of all.

        Raises:
            NotFiniteError: of the first step that is not finite, on every rank.
        """
        found = []
        while len(self._waiting) > (0 if everything else self.behind):
            step = self._waiting.popleft()
            if step.arrived is not None:
                step.arrived.synchronize()
            loss, norm = step.figures.tolist()
            self.judge(loss, norm, step.seen, step.number)
            found.append((loss, norm))
        return found
