"""Whether files of weights fit their networks, from the names and shapes in their headers: before work, and without reading them.

Run as `python -m medssl.nn.header_check`: a JSON list of questions on standard input, the answers on standard output.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medssl.core.errors import MedsslError, StudyError
from medssl.nn.backbone import build
from medssl.nn.weights import place_encoder

WHOLE = {"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64}
"""Types of numbers in a header that are not fractional. Which fractional type it is makes no difference here."""


def misfit(path: str, backbone: str, options: dict[str, Any], spatial_dims: int) -> str:
    """Why a file of weights, perhaps of another library, does not load into a backbone; empty if by its header it does.

    A backbone that cannot be built has no answer: other checks say so.
    """
    try:
        network = build(backbone, options, spatial_dims, 1)  # loading fits the first convolution to any number of channels
    except StudyError:
        return ""
    try:
        place_encoder(_zeros(Path(path)), network, Path(path), foreign=True)
    except MedsslError as error:
        return str(error).removesuffix(".")
    except (SafetensorError, OSError) as error:
        return f"{path} is not a whole safetensors file ({error}). Make or copy it again"
    return ""


def _zeros(path: Path) -> dict[str, Tensor]:
    """Zeros under the names of a file, of its shapes."""
    with safe_open(path, framework="pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)
        return {
            name: torch.zeros(part.get_shape(), dtype=WHOLE.get(part.get_dtype(), torch.float32)) for name, part in slices.items()
        }


def main() -> None:
    """Answer all questions: the arguments of `misfit` by name."""
    with contextlib.redirect_stdout(sys.stderr):
        answers = [misfit(**question) for question in json.load(sys.stdin)]
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
