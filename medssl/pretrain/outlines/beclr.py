"""Which options of `beclr` do not fit the size of its views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from medssl.core.options import PluginChoice

PATCHES_OF_A_SIDE = 14
"""By default, as in the released code: 16 pixels of 224."""


def side_of_patch(patch: int | None, size: Sequence[int]) -> int:
    """The side of the patches of a view of this size, in pixels; `patch`: what the option says."""
    return patch or max(1, round(min(size) / PATCHES_OF_A_SIDE))


def misfit(options: dict[str, Any], backbone: PluginChoice, size: tuple[int, ...], steps: int | None) -> str:
    """Why no run has these options, and what to change; empty if one has."""
    if options["hidden_patches"] is None:
        return ""
    patch, (smallest, largest) = side_of_patch(options["patch"], size), options["hidden_patches"]
    places = math.prod(math.ceil(side / patch) for side in size)
    if smallest * places < 1 and largest * places <= 1:
        return (
            f"beclr: views of {list(size)} have {places} patches of {patch}, of which fewer than one is hidden at a share of up "
            f"to {largest:g}. Lower patch, or set hidden_patches: null"
        )
    return ""
