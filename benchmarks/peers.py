"""Finds lightly and torchvision in a folder beside the environment, which `make bench-pretrain` fills."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

FOLDER = Path(sys.prefix) / "lightly"
NAMES = ("lightly", "torchvision")
_declared: list[torch.library.Library] = []


def find() -> list[str]:
    """Make the peers importable in this process; returns those that are not there.

    Beside a CPU build of torch, torchvision's own operators do not load, and it imports only where two of them are declared.
    """
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    missing = [name for name in NAMES if importlib.util.find_spec(name) is None]
    if "torchvision" not in missing and torch.version.cuda is None and not _declared:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
    return missing
