"""Which options of `table_contrast` do not fit each other."""

from __future__ import annotations

from typing import Any

from medssl.core.options import PluginChoice


def misfit(options: dict[str, Any], backbone: PluginChoice, size: tuple[int, ...], steps: int | None) -> str:
    """Why no run has these options, and what to change; empty if one has."""
    width, heads = options["table_width"], options["table_heads"]
    if options["reconstruct_weight"] and options["table_encoder"] == "mlp":
        return "table_contrast: reconstruct_weight needs a token for each column. Set table_encoder: transformer, or leave it 0"
    if options["table_encoder"] == "transformer" and width % heads:
        nearest = max(1, round(width / heads)) * heads
        return f"table_contrast: table_width {width} cannot be divided among {heads} heads. The nearest that can: {nearest}"
    return ""
