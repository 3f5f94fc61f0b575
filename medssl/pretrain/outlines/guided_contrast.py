"""Which options of `guided_contrast` do not fit each other."""

from __future__ import annotations

from typing import Any

from medssl.core.options import PluginChoice


def misfit(options: dict[str, Any], backbone: PluginChoice, size: tuple[int, ...], steps: int | None) -> str:
    """Why no run has these options, and what to change; empty if one has."""
    if options["exclude_same_volume"] and options["near_position_mm"] is not None:
        return (
            "guided_contrast: near_position_mm gives slices of one volume a share of the target, and exclude_same_volume leaves "
            "them out. Take one of them out"
        )
    return ""
