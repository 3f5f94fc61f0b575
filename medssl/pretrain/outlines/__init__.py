"""What is known of an objective by its options alone: a file for each objective whose options, size or backbone may not fit.

`misfit(options, backbone, size, steps)` says why no run has them and what to change, or nothing. It imports no torch: a study
file is refused before any work.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from medssl.core.options import PluginChoice


def misfit(objective: PluginChoice, backbone: PluginChoice, size: tuple[int, ...], steps: int | None) -> str:
    """Why no run has this objective with this backbone, for views of this size, one number for each dimension; else empty.

    steps: of the run; None if it is so many epochs.
    """
    if not (Path(__file__).parent / f"{objective.name}.py").is_file():
        return ""
    outline = importlib.import_module(f"{__name__}.{objective.name}")
    return str(outline.misfit(objective.options, backbone, size, steps))
