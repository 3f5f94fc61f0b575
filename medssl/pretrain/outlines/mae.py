"""Which options of `mae` do not fit its transformer or the size of its views."""

from __future__ import annotations

import math
from typing import Any

from medssl.core.options import PluginChoice
from medssl.nn.backbone_outline import attention_of, patch_of


def misfit(options: dict[str, Any], backbone: PluginChoice, size: tuple[int, ...], steps: int | None) -> str:
    """Why no run has these options, and what to change; empty if one has."""
    dims, width = len(size), options["decoder_width"]
    patch, shape = patch_of(backbone, dims), attention_of(backbone, dims)
    if patch and math.prod(side // patch for side in size) < 2:
        return (
            f"mae: views of {list(size)} are one patch of {patch}, and it predicts hidden patches from seen ones. Raise size, or "
            "lower the option patch of the backbone"
        )
    of_head = shape.width // shape.heads if shape else 0
    if of_head % (2 * dims):
        return (
            f"mae: a head of the backbone has {of_head} channels, and the decoder's rotary positions in {dims}-D need a multiple "
            f"of {2 * dims}. Change width or heads of the backbone"
        )
    if of_head and width and width % of_head:
        nearest = max(1, round(width / of_head)) * of_head
        return f"mae: decoder_width {width} is no multiple of the {of_head} channels of a head. The nearest that is: {nearest}"
    return ""
