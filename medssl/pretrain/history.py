"""What a run has behind it, in numbers: the rows of its curve, and what has been counted since the last one."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """Steps that are done and the curve of them; but for the clock it is saved with the state."""

    step: int = 0
    """optimiser steps that are done"""
    rows: list[dict[str, Any]] = field(default_factory=list)
    since_row: dict[str, float] = field(default_factory=lambda: {"loss": 0.0, "steps": 0.0})
    """sum of the losses, and the steps, since the last row"""
    collapsed: str | None = None
    """what was said when the representation collapsed and the run was to stop"""
    row_s: float = field(default_factory=time.monotonic)
    """when the last row was added"""

    def add_loss(self, loss: float) -> None:
        """The loss of one more step is known."""
        self.since_row["loss"] += loss
        self.since_row["steps"] += 1

    def add_row(self, epoch: int, batch_size: int, lr: float, norm: float, figures: dict[str, float]) -> dict[str, Any]:
        """A row of the curve of the steps since the last one; figures: what else the objective and its health say."""
        now_s, steps = time.monotonic(), self.since_row["steps"]
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": self.step,
            "loss": self.since_row["loss"] / steps,
            "lr": lr,
            "images_per_s": steps * batch_size / max(now_s - self.row_s, 1e-9),
            "grad_norm": norm if math.isfinite(norm) else None,
        }
        row |= figures
        self.since_row = {"loss": 0.0, "steps": 0.0}
        self.row_s = now_s
        self.rows.append(row)
        return row

    def plain(self) -> dict[str, Any]:
        """What is saved of it beside the number of steps."""
        return {"rows": self.rows, "since_row": self.since_row, "collapsed": self.collapsed}

    def restore(self, step: int, values: dict[str, Any]) -> None:
        """Go on from a saved state; a collapse of the last time counts no more."""
        self.step, self.rows, self.since_row = step, values["rows"], values["since_row"]
