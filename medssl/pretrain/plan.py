"""The plan of a run: everything its weights depend on, and what is built from it alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch

from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.core.rng import key
from medssl.nn.backbone import build
from medssl.nn.loading import Reader, Samples
from medssl.nn.weights import load_encoder, load_parts
from medssl.pretrain.loggers import Asked
from medssl.pretrain.objective import Objective
from medssl.pretrain.options import TrainingOptions


@dataclass(frozen=True)
class Plan:
    """Everything that a run depends on; it can be sent to another process."""

    options: TrainingOptions
    seed: int
    """of weights, order and views"""
    samples: Samples
    state: Path
    """the folder of its saved states"""
    events: Path | None = None
    """the folder of its TensorBoard files"""
    loggers: Asked | None = None
    """Weights & Biases or MLflow, where the run asks for them"""
    before: dict[str, Path] = field(default_factory=dict)
    """`encoder` and `parts` of the run that this one continues"""

    @property
    def size(self) -> tuple[int, ...]:
        """The views' size, one number per dimension."""
        return self.options.full_size

    def reader(self) -> Reader:
        """The reader of this plan's batches: planes, or in 3-D patches around each slice with margin for random crops."""
        if self.options.spatial_dims == 2:
            if self.options.views.fit == "crop":  # pixels unscaled
                return Reader(self.samples, seed=self.seed)
            # A crop of the middle of the range of scales then still has the resolution of the view.
            share = sum(self.options.views.scale) / 2
            return Reader(self.samples, seed=self.seed, shrink_to=math.ceil(max(self.size) / math.sqrt(share)))
        i, j, k = (math.ceil(s * self.options.patch_margin) for s in self.size)
        return Reader(self.samples, seed=self.seed, patch=(i, j, k), in_mm=self.options.views.unit == "mm")

    def objective(self) -> Objective:
        """The objective with fresh weights, or the named starting weights, on the CPU."""
        options = self.options
        torch.manual_seed(key(self.seed, "weights") >> 1)
        backbone = build(options.backbone.name, options.backbone.options, options.spatial_dims, self.samples.num_channels)
        if options.init_weights is not None:
            load_encoder(options.init_weights, backbone, foreign=True)
        if self.before:
            load_encoder(self.before["encoder"], backbone)
        plugin = plugins.find("objective", options.objective.name)
        built: Objective = plugin.load()(backbone, self.samples, **options.objective.options)
        if self.before:
            load_parts(self.before["parts"], built.parts())
        return built

    def batch_size(self, processes: int, together: int) -> int:
        """The batch of one optimiser step over all processes: as the study says, or all samples if there are fewer.

        Raises:
            StudyError: it cannot be divided into equal parts of at least two, in groups of `together`.
        """
        wanted, count, shares = self.options.batch_size, len(self.samples), processes * self.options.accumulate
        unit = shares * together
        if wanted % unit:
            groups = (
                f" × {together} slices of a volume (the option slices, or what the median volume has)" if together > 1 else ""
            )
            raise StudyError(
                f"pretrain.batch_size {wanted} is the whole batch of a step and cannot be divided by "
                f"{shares} (devices × accumulate){groups}. Set it to a multiple of {unit}, such as "
                f"{max(1, wanted // unit) * unit}."
            )
        size = min(wanted, count - count % unit)
        if size < max(unit, 2 * shares):
            raise StudyError(
                f"{count} training samples are too few for {shares} parts of at least {max(2, together)}. "
                "Lower accumulate or devices, or keep more."
            )
        return size
