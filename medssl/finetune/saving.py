"""The state of an unfinished fit, so that a stopped one resumes and ends with the same bits."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from medssl.nn.state import StateFolder, optimizer_tensors, restore_optimizer, under

if TYPE_CHECKING:
    from medssl.finetune.training import Fit


CurveRow = tuple[int, float, float, *tuple[list[int], ...]]
"""Finished steps, mean loss since the last entry, validation score; with gates also open channels of each map, and all."""


class Steps(NamedTuple):
    """Finished steps of a fit; `earlier`: of an earlier try, so they do not count for the rate."""

    done: int
    earlier: bool = False


@dataclass
class Progress:
    """Progress of a fit."""

    step: int = 0
    """finished steps"""
    losses: list[float] = field(default_factory=list)
    """since the last evaluation"""
    curve: list[CurveRow] = field(default_factory=list)
    best_step: int = 0
    best_score: float = math.nan
    best: dict[str, Tensor] = field(default_factory=dict)
    """The weights of the best step."""


class Saving:
    """The state of an unfinished fit, in its own folder: a fit that resumes from it ends with the same bits.

    folder: of the fit; every_s: seconds between two states.
    """

    def __init__(self, folder: Path, every_s: float) -> None:
        self.folder, self.every_s = StateFolder(folder), every_s
        self._last_s = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last state is old enough."""
        return time.monotonic() - self._last_s > self.every_s

    def resume(self, fit: Fit) -> None:
        """Restore the newest complete state; without one the fit starts from the beginning."""
        loaded = self.folder.load()
        if loaded is None:
            return
        step, tensors, values = loaded
        fit.network.load_state_dict(under("network", tensors))
        if fit.averaged is not fit.network:
            fit.averaged.load_state_dict(under("averaged", tensors))
        restore_optimizer(fit.stepper.optimizer.optimizer, under("optimizer", tensors))
        fit.stepper.skipped = values["skipped"]
        if values["scaler"]:
            fit.stepper.fabric.strategy.precision.load_state_dict(values["scaler"])
        device = fit.stepper.device
        fit.progress = Progress(
            step,
            values["losses"],
            [(at, loss, math.nan if score is None else score, *kept) for at, loss, score, *kept in values["curve"]],
            values["best_step"],
            math.nan if values["best_score"] is None else values["best_score"],
            {name: t.to(device) for name, t in under("best", tensors).items()},
        )

    def save(self, fit: Fit) -> None:
        """Write the whole state, only after finite steps."""
        progress = fit.progress
        kinds: dict[str, dict[str, Tensor]] = {
            "network": fit.network.state_dict(),
            "averaged": {} if fit.averaged is fit.network else fit.averaged.state_dict(),
            "optimizer": optimizer_tensors(fit.stepper.optimizer.optimizer),
            "best": progress.best,
        }
        values = {
            "losses": progress.losses,
            "curve": [(at, loss, None if math.isnan(score) else score, *kept) for at, loss, score, *kept in progress.curve],
            "best_step": progress.best_step,
            "best_score": None if math.isnan(progress.best_score) else progress.best_score,
            "skipped": fit.stepper.skipped,
            "scaler": dict(fit.stepper.fabric.strategy.precision.state_dict()),
        }
        named = {f"{kind}/{name}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()}
        self.folder.save(progress.step, named, values)
        self._last_s = time.monotonic()
