"""Which options of `swav` do not fit each other."""

from __future__ import annotations

from typing import Any

from medssl.core.options import PluginChoice


def misfit(options: dict[str, Any], backbone: PluginChoice, size: tuple[int, ...], steps: int | None) -> str:
    """Why no run has these options, and what to change; empty if one has."""
    return never_trained(options["freeze_prototypes_steps"], steps)


def never_trained(fixed: int | None, steps: int | None) -> str:
    """Why prototypes that are fixed for so many steps never train; empty if they do."""
    if fixed is None or steps is None or fixed < steps:
        return ""
    return (
        f"freeze_prototypes_steps is {fixed} and the run has {steps} steps, so learned prototypes stay random. Leave it out "
        "for a hundredth of the steps, or lower it"
    )
