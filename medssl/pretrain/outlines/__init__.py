"""What is known of an objective by its options alone: a file for each objective whose options, size or backbone may not fit.

`misfit(options, backbone, size, steps)` says why they do not fit and what to change, or nothing. `leaves_parts(options)` says
whether a run has the parts that its objective declares (`PARTS`); an objective without it always has them. No file imports torch:
a study file is refused before any work.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from medssl.core.options import PluginChoice


def misfit(objective: PluginChoice, backbone: PluginChoice, size: tuple[int, ...], steps: int | None) -> str:
    """Why no run has this objective with this backbone, for views of this size, one number for each dimension; else empty.

    steps: of the run; None if it is so many epochs.
    """
    outline = _outline(objective)
    return str(outline.misfit(objective.options, backbone, size, steps)) if outline else ""


def leaves_parts(objective: PluginChoice) -> bool:
    """Whether a run with these options leaves the parts that its objective declares beside its encoder."""
    outline = _outline(objective)
    return not hasattr(outline, "leaves_parts") or bool(outline.leaves_parts(objective.options))


def _outline(objective: PluginChoice) -> Any:
    there = (Path(__file__).parent / f"{objective.name}.py").is_file()
    return importlib.import_module(f"{__name__}.{objective.name}") if there else None
