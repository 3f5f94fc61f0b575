"""Loss and gradient norm of each step, and whether they are finite.

On a GPU they are read some steps late, as the host would else wait for every step. A step that is not finite still ends the run
with the samples that it saw: what is read late is read before anything is saved, so that no saved state holds such a step.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from medssl.nn.loading import Batch
from medssl.pretrain.learner import Learner

BEHIND = 8
"""How many steps the host may be ahead of what it has read."""


def steps_behind(learner: Learner) -> int:
    """How late figures are read: at once on the processor, and in fp16, whose loss scaling may skip a step."""
    return BEHIND if learner.device.type == "cuda" and learner.scaler is None else 0


@dataclass(frozen=True)
class _Step:
    number: int
    figures: Float64[Tensor, "2"]
    """Loss and gradient norm, on their way to the host."""
    arrived: Any
    """The CUDA event after which they are there; None where they are."""
    batch: Batch


class Watch:
    """The steps of a run whose figures are not read yet."""

    def __init__(self, learner: Learner, behind: int) -> None:
        self.learner, self.behind = learner, behind
        self._waiting: deque[_Step] = deque()

    def add(self, figures: Float64[Tensor, "2"], batch: Batch, step: int) -> None:
        """Send loss and gradient norm of a step to the host."""
        arrived = None
        if figures.device.type == "cuda":
            figures = figures.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._waiting.append(_Step(step, figures, arrived, batch))

    def read(self, *, everything: bool = False) -> list[tuple[float, float]]:
        """(loss, gradient norm) of the steps that are due, or of all.

        Raises:
            NotFiniteError: of the first step that is not finite, on every rank; see `Learner.judge`.
        """
        found = []
        while len(self._waiting) > (0 if everything else self.behind):
            step = self._waiting.popleft()
            if step.arrived is not None:
                step.arrived.synchronize()
            loss, norm = step.figures.tolist()
            self.learner.judge(loss, norm, step.batch, step.number)
            found.append((loss, norm))
        return found
