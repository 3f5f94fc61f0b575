"""The recipe of a fit: one for every starting point, so that a difference is the starting point's and nothing else's."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a network is fine-tuned. Equal for pretrained and scratch; written into every row of fits.tsv."""

    epochs: int = 30
    max_steps: int | None = None
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup_frac: float = 0.1
    layer_decay: float = 1.0
    frozen_frac: float = 0.15
    evaluations: int = 8
    augment: bool = True
    flips: bool = False
    mixup: float = 0.0
    calibration_batches: int = 8

    def steps(self, num_train: int) -> int:
        """Optimiser steps on `num_train` cases."""
        steps = self.epochs * math.ceil(num_train / self.batch_size)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def lr_at(self, step: int, num_steps: int) -> float:
        """Share of the peak learning rate at a step: linear warm-up from above zero, then half a cosine to zero."""
        warmup = round(self.warmup_frac * num_steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))

    def unfrozen_at(self, step: int, num_steps: int) -> float:
        """Share of the head's learning rate that the backbone gets in gradual unfreezing: 0, then 0.1 doubling up to 1.

        The backbone stays frozen for `frozen_frac` of the steps (10 of 70 epochs in the paper's protocol); then its rate is
        a tenth of the head's and doubles every seventieth of the run until both are equal.

        Source: Wolf et al., arXiv 2308.06534, downstream protocol (Lightning's BackboneFinetuning).
        """
        frozen = round(self.frozen_frac * num_steps)
        if step < frozen:
            return 0.0
        return min(1.0, 0.1 * 2.0 ** ((step - frozen) // max(1, round(num_steps / 70))))

    def evaluation_steps(self, num_steps: int) -> list[int]:
        """The numbers of finished steps after which the validation score is taken; the last step is one of them."""
        count = min(self.evaluations, num_steps)
        return sorted({round(num_steps * (turn + 1) / count) for turn in range(count)})
