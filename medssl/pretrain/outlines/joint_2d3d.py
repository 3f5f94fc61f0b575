"""Which options of `joint_2d3d` do not fit each other, and with which it leaves a transformer."""

from __future__ import annotations

from typing import Any

from medssl.core.options import PluginChoice
from medssl.pretrain.outlines.swav import never_trained


def misfit(options: dict[str, Any], backbone: PluginChoice, size: tuple[int, ...], steps: int | None) -> str:
    """Why no run has these options, and what to change; empty if one has."""
    weights = [options[name] for name in ("slice_weight", "volume_weight", "mask_weight")]
    if not any(weights):
        return f"joint_2d3d: the weights {weights} are all 0, so nothing is learned. Raise one of them"
    width, heads = options["width"], options["attention_heads"]
    if width % heads:
        nearest = max(1, round(width / heads)) * heads
        return f"joint_2d3d: width {width} cannot be divided among {heads} attention_heads. The nearest that can: {nearest}"
    clusters = options["slice_weight"] or options["volume_weight"]
    return never_trained(options["freeze_prototypes_steps"], steps) if clusters else ""


def leaves_parts(options: dict[str, Any]) -> bool:
    """Whether a run trains the transformer between slices, for volumes or for hidden slices."""
    return bool(options["volume_weight"] or options["mask_weight"])
