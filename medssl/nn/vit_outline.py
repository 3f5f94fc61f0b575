"""What is known of a vision transformer by its options alone: its shape, its maps, and which options do not fit each other."""

from __future__ import annotations

import math
from typing import Any

SHAPES = {
    2: {"tiny": (192, 12, 3), "small": (384, 12, 6), "medium": (512, 12, 8), "base": (768, 12, 12)},
    3: {"tiny": (180, 12, 3), "small": (396, 12, 6), "medium": (864, 16, 12), "base": (792, 12, 12)},
}
"""Width, blocks and heads: of timm, and in 3-D of Primus (Wald et al., arXiv 2503.01835), whose heads have channels for three
axes, and whose M is larger than its B.
"""


def shape_of(spatial_dims: int, options: dict[str, Any]) -> tuple[int, int, int]:
    """Width, blocks and heads."""
    width, blocks, heads = SHAPES[spatial_dims][options["size"]]
    return options["width"] or width, options["blocks"] or blocks, options["heads"] or heads


def num_maps(spatial_dims: int, options: dict[str, Any]) -> int:
    """One of each block, and one of the class token if it is pooled."""
    return shape_of(spatial_dims, options)[1] + (options["pool"] != "mean")


def misfit(spatial_dims: int, options: dict[str, Any]) -> str:
    """Why no network has these options, and what to change; empty if one has."""
    dims, (width, _, heads) = spatial_dims, shape_of(spatial_dims, options)
    positions, grid, patch = options["positions"], options["learned_grid"], options["patch"]
    if width % heads or (positions != "learned" and width // heads % (2 * dims)):
        return (
            f"vit: {width} channels in {heads} heads. The channels of a head must be a whole number, a multiple of "
            f"{2 * dims} for rotary positions in {dims}-D. Change width or heads"
        )
    if (positions != "rotary") != (grid is not None) or (grid and len(grid) != dims):
        return (
            f"vit: positions: {positions}, learned_grid: {grid and list(grid)}. Give the patches along each of {dims} axes "
            "with positions: learned or both, such as [14, 14] for 224² and patches of 16, and none with rotary ones"
        )
    if options["rescale"] > 1 and positions == "learned":
        return (
            f"vit: rescale: {options['rescale']:g} is of rotary coordinates, and positions: learned has none. Set positions: "
            "both, or leave rescale out"
        )
    if options["stem"] == "residual" and patch is not None and (patch < 2 or patch & (patch - 1)):
        nearest = 2 ** max(1, round(math.log2(patch)))
        return f"vit: stem: residual halves the image, so patch must be a power of 2, got {patch}. The nearest: {nearest}"
    if options["form"] == "primus" and (dims != 3 or options["pool"] != "mean"):
        return (
            f"vit: form: primus is 3-D and has no class token, got {dims}-D and pool: {options['pool']}. Set form: timm; or "
            "pool: mean, and in a run spatial_dims: 3, in a task three numbers in size"
        )
    return ""
