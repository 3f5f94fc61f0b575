"""Which options of `spark` do not fit the size of its views."""

from __future__ import annotations

import math
from typing import Any

from medssl.core.options import PluginChoice


def misfit(options: dict[str, Any], backbone: PluginChoice, size: tuple[int, ...], steps: int | None) -> str:
    """Why no run has these options, and what to change; empty if one has. A patch that is not given depends on the strides of the
    network, and is checked in the job.
    """
    patch = tuple(options["patch"])
    if len(patch) not in (0, 1, len(size)):
        return f"spark: patch {list(patch)} has {len(patch)} numbers. Give one, or {len(size)} (spatial_dims)"
    patch *= len(size) if len(patch) == 1 else 1
    cut = any(side % of_patch for side, of_patch in zip(size, patch, strict=False))
    if patch and (cut or math.prod(side // of_patch for side, of_patch in zip(size, patch, strict=True)) < 2):
        return f"spark: views of {list(size)} are not two or more whole patches of {list(patch)}. Change size, or patch"
    return ""
