"""Which options of `hydra` do not fit each other."""

from __future__ import annotations

from typing import Any

from medssl.core.options import PluginChoice


def misfit(options: dict[str, Any], backbone: PluginChoice, size: tuple[int, ...], steps: int | None) -> str:
    """Why no run has these options, and what to change; empty if one has."""
    if len(options["records"]) + options["label"] > 1:
        return "hydra: classes are labels, or the levels of one column of records. Name one of them"
    return ""
