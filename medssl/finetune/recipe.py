"""The recipe of a fit: one for every starting point, so that differences come from the starting point alone."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from medssl.core.bounds import Count, Fold, Fraction, OneOrMore, Positive, Weight, Whole
from medssl.core.options import Options
from medssl.nn.options import AugmentOptions, EngineOptions


def _of_switch(value: Any) -> Any:
    """`false` turns everything off, and `true` selects the usual values."""
    return {False: None, True: {}}[value] if isinstance(value, bool) else value


class BottleneckOptions(Options):
    """Gates on the channels that the head reads, each of which costs a share of the loss: see docs/explanation/finetune.md."""

    weight: Weight = 1.0
    """Factor of the gates' KL divergence, as a multiple of 1/N, with N training cases; in a segmentation N are slices, or eight
    patches per volume.
    """
    rate: Positive = 10.0
    """Learning rate of the gates, as a multiple of `lr`."""
    twin: Weight = 0.0
    """Weight of a contrast between the gated and the plain features of each image; 0: none."""
    temperature: Positive = 0.1
    """Of that contrast."""
    stages: OneOrMore[int] | None = None
    """The maps with gates, as numbers among those that the head reads, -1 the deepest; by default all of them. A classification
    reads the last map alone.
    """

    def misfit(self, read: int) -> str:
        """Why gates cannot stand on `stages` of the maps that a head reads; empty if they can."""
        if all(-read <= stage < read for stage in self.stages or ()):
            return ""
        numbers = f"the head reads {read} map{'s' if read > 1 else ''}; expected numbers from {-read} to {read - 1}"
        return f"bottleneck.stages {self.stages}: {numbers}. Correct them, or leave stages out"


class Recipe(EngineOptions):
    """How a network is fine-tuned. Equal for pre-trained and scratch; written into every row of fits.tsv."""

    max_steps: Count | None = None
    """Optimiser steps of a fit, for few labels and many; without it and `epochs`, the task's own number."""
    epochs: Count | None = None
    """Length in passes over the labelled cases, if `max_steps` is not given: few labels then mean few steps."""
    batch_size: Count = 64
    """Images or patches of a step."""
    lr: OneOrMore[Positive] = Field(default=[1e-3])
    """Peak learning rate of the head, and of the backbone if `layer_decay` is 1. With several, each fit takes its best."""
    weight_decay: Weight = 1e-4
    """Weight decay."""
    warmup_frac: Fold = 0.1
    """Share of the steps in which the learning rate rises to its peak."""
    layer_decay: Fraction = 1.0
    """Factor of the learning rate from each block to the one below it; random weights learn without it."""
    frozen_frac: Fold = 0.15
    """For mode `gradual`: share of the steps in which the backbone is frozen."""
    unfrozen_blocks: Count | None = None
    """For modes `full` and `gradual`: train only the last so many blocks of the backbone, and the head; null: all."""
    lora_rank: Count = 8
    """For mode `lora`: rank of the adapters."""
    lora_alpha: Positive = 16.0
    """For mode `lora`: factor of the adapters, divided by their rank."""
    evaluations: Count = 8
    """How often validation is scored."""
    choose_from: Count = 10
    """Validation patients from which on the best step is kept. With fewer, the last one is: their choice is mostly noise."""
    augment: Annotated[AugmentOptions | None, BeforeValidator(_of_switch)] = AugmentOptions()
    """How training images may vary; by default the usual variation for the task; null: none."""
    mixup: Weight = 0.0
    """α of Mixup; 0 turns it off."""
    bottleneck: Annotated[BottleneckOptions | None, BeforeValidator(_of_switch)] = None
    """For mode `full` of a classification or segmentation: gates on channels, whose information costs; null: none, `true`: the
    usual ones.
    """
    calibration_batches: Whole = 8
    """Training batches for batch-norm statistics before validation."""

    @model_validator(mode="after")
    def _one_patient_an_image(self) -> Recipe:
        if self.bottleneck is not None and self.bottleneck.twin and self.mixup:
            raise ValueError(
                f"bottleneck.twin {self.bottleneck.twin:g}: it contrasts images of different patients, and mixup {self.mixup:g} "
                "mixes them. Set one of the two to 0"
            )
        return self

    def one_for_each_rate(self) -> list[Recipe]:
        """One recipe for each of its rates."""
        return [self.model_copy(update={"lr": [rate]}) for rate in self.lr]

    def steps(self, num_train: int) -> int:
        """Optimiser steps on `num_train` cases.

        Raises:
            ValueError: neither steps nor epochs are given.
        """
        if self.max_steps is not None:
            return self.max_steps
        if self.epochs is None:
            raise ValueError("a recipe needs max_steps or epochs")
        return self.epochs * math.ceil(num_train / self.batch_size)

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
        """The numbers of finished steps after which the validation score is computed; the last step is one of them."""
        count = min(self.evaluations, num_steps)
        return sorted({round(num_steps * (turn + 1) / count) for turn in range(count)})
