"""Where a patch lies: rotary positions, which attention sees as differences along each axis, and learned ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medssl.nn.backbone import wide

LONGEST = 100.0
"""The longest period, in units of half an image."""
LONGEST_COUNTED = 10_000.0
"""The longest period of counted patches, in units of the shortest."""


def rotary_angles(
    grid: Sequence[int], width: int, device: torch.device, factor: float | Float[Tensor, ""] = 1.0
) -> Float[Tensor, "places {width}"]:
    """Angles of each place of a grid, row by row, for heads of `width` channels: both halves have the same ones.

    Each axis has an equal share of the angles, with periods from 1 to 100 half images; coordinates are centres of patches
    from −1 to 1, times `factor`. In float32 whatever the network computes in.

    Source: Su et al., RoFormer, arXiv 2104.09864, §3.4.2; axes and periods as in Siméoni et al., DINOv3, arXiv 2508.10104.
    """
    axes = [(torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n * 2 - 1 for n in grid]
    return _angles(axes, width, LONGEST, factor, 2 * math.pi)


def counted_angles(
    grid: Sequence[int], width: int, device: torch.device, factor: float | Float[Tensor, ""] = 1.0
) -> Float[Tensor, "places {width}"]:
    """The same with numbers of patches as coordinates, and periods from 2π to 20,000π patches.

    Source: Su et al., arXiv 2104.09864, eq. 15, for each axis; as in Primus, arXiv 2503.01835.
    """
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in grid]
    return _angles(axes, width, LONGEST_COUNTED, factor, 1.0)


def _angles(
    axes: list[Float[Tensor, "_"]], width: int, longest: float, factor: float | Float[Tensor, ""], turn: float
) -> Float[Tensor, "places {width}"]:
    """Angles of all places of a grid; each axis has an equal share of them."""
    count = width // (2 * len(axes))
    periods = longest ** (torch.arange(count, device=axes[0].device, dtype=torch.float32) / count)
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2) * factor
    angles = (turn * places[:, :, None] / periods).flatten(1)
    return angles.repeat(1, 2)


def rotated(x: Float[Tensor, "n heads tokens d"], angles: Float[Tensor, "*n places d"]) -> Float[Tensor, "n heads tokens d"]:
    """Queries or keys whose last tokens, one for each place, are turned by its angles; the tokens before them stay.

    angles: the same for all images, or `(n, 1, places, d)`.
    """
    count = angles.shape[-2]
    before, places = x[:, :, :-count], wide(x[:, :, -count:])
    first, second = places.chunk(2, -1)
    turned = places * angles.cos() + torch.cat([-second, first], -1) * angles.sin()
    return torch.cat([before, turned.to(x)], 2)


def resampled(
    positions: Float[Tensor, "1 places d"], old: Sequence[int], new: Sequence[int]
) -> Float[Tensor, "1 _ d"]:  # fmt: skip
    """Learned positions of a grid for another grid: cubic in 2-D, smoothed where they get fewer, linear in 3-D."""
    if tuple(old) == tuple(new):
        return positions
    maps = positions.transpose(1, 2).unflatten(2, tuple(old)).float()
    for axis, (before, after) in enumerate(zip(old, new, strict=True)):
        weights = _interpolation(before, after, cubic=len(new) == 2, device=maps.device)
        maps = torch.movedim(torch.movedim(maps, 2 + axis, -1) @ weights, -1, 2 + axis)
    return maps.flatten(2).transpose(1, 2).to(positions)


@cache
@torch.inference_mode(False)
def _interpolation(old: int, new: int, *, cubic: bool, device: torch.device) -> Float[Tensor, "{old} {new}"]:
    """Weights of old places in new ones along an axis. A product with them has a deterministic gradient on a GPU, which torch's
    cubic interpolation has not. Kept, as every step needs them.
    """
    one = torch.eye(old, device=device)[None]
    if cubic:
        plane = one[..., None].repeat(1, 1, 1, 2)  # of width 1 torch 2.13 gets it wrong
        return F.interpolate(plane, size=(new, 2), mode="bicubic", antialias=True, align_corners=False)[0, :, :, 0]
    return F.interpolate(one, size=new, mode="linear", align_corners=False)[0]
