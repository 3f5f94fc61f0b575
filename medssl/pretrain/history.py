"""The progress of a run in numbers: the rows of its curve, and the sums since the last row."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """Completed steps and their curve; all but the clock is saved with the state."""

    step: int = 0
    """completed optimiser steps"""
    rows: list[dict[str, Any]] = field(default_factory=list)
    since_row: dict[str, float] = field(default_factory=lambda: {"loss": 0.0, "steps": 0.0})
    """sum of the losses, and the steps, since the last row"""
    collapsed: str | None = None
    """the message if the representation collapsed and the run was to stop"""
    row_s: float = field(default_factory=time.monotonic)
    """when the last row was added"""

    def add_loss(self, loss: float) -> None:
        """Add the loss of one more step."""
        self.since_row["loss"] += loss
        self.since_row["steps"] += 1

    def add_row(self, epoch: int, batch_size: int, lr: float, norm: float, figures: dict[str, float]) -> dict[str, Any]:
        """Add a row to the curve for the steps since the last one; figures: from the objective and the health of the
        representation.
        """
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
        """What is saved of it besides the number of steps."""
        return {"rows": self.rows, "since_row": self.since_row, "collapsed": self.collapsed}

    def restore(self, step: int, values: dict[str, Any]) -> None:
        """Restore a saved state; a collapse in an earlier try is forgotten."""
        self.step, self.rows, self.since_row = step, values["rows"], values["since_row"]
