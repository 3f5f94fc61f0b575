"""Crops of two sizes: large ones, which show most of an image, and small ones, which are cheap."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from medssl.nn.backbone import Backbone, pooled
from medssl.nn.views import Crop


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
    return [Crop(2, size, large_scale), *few]


def pooled_views(backbone: Backbone, views: list[Float[Tensor, "n c ..."]]) -> Float[Tensor, "all d"]:
    """Pooled features of all views, view by view, `(views · n, d)`; views of one size pass side by side."""
    return torch.cat([pooled(backbone(torch.cat(group))) for group in (views[:2], views[2:]) if group])
