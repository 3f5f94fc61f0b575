"""Crops of two sizes: large ones, which show most of an image, and small ones, which are cheap."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from medssl.core.rng import key
from medssl.nn.backbone import Backbone, pooled
from medssl.nn.loading import Batch, Samples
from medssl.nn.stochastic_depth import StochasticDepth
from medssl.nn.views import Crop
from medssl.pretrain.objective import Objective

LARGE = 2
"""How many large crops each image has."""


def multi_crop(
    size: tuple[int, ...],
    large_scale: tuple[float, float] | None,
    small_crops: int,
    small_size_frac: float,
    small_scale: tuple[float, float],
    multiple: int,
) -> list[Crop]:
    """Two crops of `size`, then `small_crops` of `small_size_frac` of it, at least 8 pixels and a multiple of `multiple`. Scales
    are shares of the image; large crops without one have that of the study's `views`.

    Source: Caron et al., arXiv 2006.09882, §3.2.
    """
    small = tuple(math.ceil(max(8, math.ceil(side * small_size_frac)) / multiple) * multiple for side in size)
    few = [Crop(small_crops, small, small_scale)] if small_crops else []
    return [Crop(LARGE, size, large_scale), *few]


def pooled_views(backbone: Backbone, views: list[Float[Tensor, "n c ..."]]) -> Float[Tensor, "all d"]:
    """Pooled features of all views, view by view, `(views · n, d)`; views of one size pass side by side."""
    return torch.cat([pooled(backbone(torch.cat(group))) for group in (views[:LARGE], views[LARGE:]) if group])


class MultiCropStudent(Objective):
    """A network that sees large and small crops, and in training skips some residual branches of each crop.

    Which branches is drawn by seed, epoch, crop and sample, so that it is the same on any number of ranks.
    """

    seed: Int64[Tensor, ""]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        large_scale: tuple[float, float],
        small_crops: int,
        small_size_frac: float,
        small_scale: tuple[float, float],
        drop_path: float,
    ) -> None:
        super().__init__(backbone, samples)
        self.large_scale, self.small = large_scale, (small_crops, small_size_frac, small_scale)
        self.stochastic_depth = StochasticDepth(backbone, drop_path) if drop_path else None
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))

    def crops(self, size: tuple[int, ...]) -> list[Crop]:
        """Two large crops and the small ones."""
        return multi_crop(size, self.large_scale, *self.small, self.backbone.multiple)

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Each epoch and seed has its own draws."""
        self.seed.fill_(seed)

    def maps(
        self, views: list[Float[Tensor, "n c ..."]], numbers: Sequence[int], batch: Batch, **options: Any
    ) -> list[Float[Tensor, "all _ ..."]]:
        """The backbone's maps of some views of one size, side by side: all images of the first, then all of the second, …"""
        with self._branches(numbers, batch):
            maps: list[Tensor] = self.backbone(torch.cat([views[number] for number in numbers]), **options)
        return maps

    def _branches(self, numbers: Sequence[int], batch: Batch) -> contextlib.AbstractContextManager[None]:
        depth = self.stochastic_depth
        if depth is None:
            return contextlib.nullcontext()
        streams = [key(int(self.seed), "drop path", batch.epoch, number) for number in numbers]
        factors = torch.cat([depth.factors(stream, batch.keys) for stream in streams], 1)
        return depth.of(factors.to(batch.stored.device))
