"""The checks on the decoded values of a volume: the signature of every file of `checks/`, and how they run.

A check is one file `checks/<name>.py` that nothing else names. It holds a function `<name>(series) -> Finding | None` and,
as literals at its top:

- `APPLIES_TO`: the modalities whose volumes it checks, such as `("CT",)`, or None for every volume;
- `CODES`: the codes that it may find, words of `ingest/codes.py` or its own;
- `SENTENCES`, if it has its own codes: the meaning of each, such as `{"grid": "a grid is drawn over the image"}`.

It runs in the reading process, on volumes that may come from a hostile file. It must not raise, must give the same answer each
time, and must not change its input. Its top-level imports are loaded once, before any file is read.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import numpy as np

from medssl.ingest import checks
from medssl.ingest.refusal import Refusal


@dataclass(frozen=True)
class Series:
    """A decoded volume, as input of the checks."""

    modality: str
    values: np.ndarray
    """Every eighth voxel of each slice in value units, float32 `(i, j, k)` in the source's slice order; empty unless CT."""
    planes: list[np.ndarray]
    """A few whole slices `(i, j)` of stored values, spread over the volume."""
    rescales: list[tuple[float, float]]
    """(slope, intercept) of each slice."""
    highest: float | None = None
    """The maximum of all voxels in value units, if known; `values` is a sample."""
    named_as_mask: bool = False
    """Whether the name of its file contains a mask word."""


@dataclass(frozen=True)
class Finding:
    """A code and the numbers behind it; `refuse` is false for a warning."""

    code: str
    detail: str
    refuse: bool = True


class Check(Protocol):
    """The interface of a file of `checks/`; its options, if any, are keyword-only and have defaults."""

    def __call__(self, series: Series) -> Finding | None:
        """The problem of a series, or None."""


@functools.cache
def found_checks() -> dict[str, ModuleType]:
    """The files of `checks/` by name, sorted, imported at the first call.

    `core/plugins.py` gives the same names, but its imports are too large for a reading process.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(checks.__path__) if not module.name.startswith("_"))
    return {name: importlib.import_module(f"{checks.__name__}.{name}") for name in names}


def run_checks(series: Series) -> list[str]:
    """The codes of the checks' warnings about a series.

    Raises:
        Refusal: a check refuses it.
    """
    warnings = []
    for name, module in found_checks().items():
        if module.APPLIES_TO is not None and series.modality not in module.APPLIES_TO:
            continue
        check: Check = getattr(module, name)
        finding = check(series)
        if finding is not None and finding.refuse:
            raise Refusal(finding.code, finding.detail)
        if finding is not None:
            warnings.append(finding.code)
    return warnings
