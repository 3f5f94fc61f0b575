"""The recipe of a fit: one for every starting point, so that a difference is the starting point's and nothing else's."""

from __future__ import annotations

import math

from medssl.core.bounds import Count, Fold, Fraction, Positive, Weight, Whole
from medssl.core.options import Options


class Recipe(Options):
    """How a network is fine-tuned. Equal for pretrained and scratch; written into every row of fits.tsv."""

    epochs: Count = 30
    """Length in passes over the labelled cases."""
    max_steps: Count | None = None
    """Largest number of steps."""
    batch_size: Count = 64
    """Images or patches of a step."""
    lr: Positive = 1e-3
    """Peak learning rate of the head; the backbone's where `layer_decay` is 1."""
    weight_decay: Weight = 1e-4
    """Weight decay."""
    warmup_frac: Fold = 0.1
    """Share of the steps in which the learning rate rises to its peak."""
    layer_decay: Fraction = 1.0
    """Factor of the learning rate from each block to the one below it."""
    frozen_frac: Fold = 0.15
    """For mode `gradual`: share of the steps in which the backbone is frozen."""
    evaluations: Count = 8
    """How often validation is scored; the best step is kept."""
    augment: bool = True
    """Shift, turn, scale, brightness and contrast."""
    flips: bool = False
    """Mirror images too: the left kidney then looks like the right one."""
    mixup: Weight = 0.0
    """α of Mixup; 0 mixes nothing."""
    calibration_batches: Whole = 8
    """Training batches over which batch-norm statistics are taken before validation."""

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
