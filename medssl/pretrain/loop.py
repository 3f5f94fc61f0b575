"""The training loop: one visible file, top to bottom. Objectives define the task; this trains them and loses nothing.

A run is a function of its plan: order, views and dropout are drawn from names (seed, epoch, step, sample id), and the saved
state holds all the rest. So a run that was stopped anywhere and resumed ends with the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medssl.core import signals
from medssl.core.cluster import is_near_its_end
from medssl.core.errors import MedsslError, NotFiniteError, PreemptedError
from medssl.core.progress import Bar
from medssl.nn.checkpointing import still_statistics
from medssl.nn.gather import any_rank, gather
from medssl.nn.health import REMEMBERED, Health, collapse, nothing_to_predict
from medssl.nn.loading import Reader, epoch_order, load
from medssl.nn.memory import memory_errors
from medssl.nn.options import ViewOptions
from medssl.nn.resident import resident
from medssl.nn.state import StateFolder
from medssl.nn.views import Crop, Views
from medssl.nn.watch import Watch, steps_behind
from medssl.pretrain.events import Events
from medssl.pretrain.history import History
from medssl.pretrain.learner import Learner
from medssl.pretrain.loggers import Logger, opened, write_all
from medssl.pretrain.objective import HEALTH_OUTPUTS, Objective
from medssl.pretrain.picture import grid
from medssl.pretrain.plan import Plan
from medssl.pretrain.saving import Saving

CURVE_ROWS = 200
"""Approximate number of rows of the curve besides those at the ends of epochs."""
PICTURED = 8
"""How many samples of an epoch's last batch are drawn."""
PICTURED_EPOCHS = 100
"""For how many epochs pictures are kept, evenly spread, including the last."""


def train(
    fabric: Any, plan: Plan, bar: Bar, log: Callable[[str], None], keep_picture: Callable[[int, np.ndarray], None] | None = None
) -> MedsslError | None:
    """Train until the last step is saved in the plan's state folder; a foreseen failure is returned, not raised.

    `keep_picture(epoch, pixels)` gets the objective's pictures at the end of an epoch.
    """
    try:
        asked_for = plan.loggers if fabric.is_global_zero else None
        with signals.noted() as asked_to_stop, opened(asked_for, log) as loggers:
            Loop(fabric, plan, bar, log, asked_to_stop, keep_picture, loggers).run()
    except MedsslError as error:
        return error
    return None


class Loop:
    """One process's part of a run. `run` is the loop; the methods that it calls follow in the order of the calls."""

    def __init__(
        self,
        fabric: Any,
        plan: Plan,
        bar: Bar,
        log: Callable[[str], None],
        asked_to_stop: Callable[[], bool],
        keep_picture: Callable[[int, np.ndarray], None] | None = None,
        loggers: list[Logger] | None = None,
    ) -> None:
        self.fabric, self.plan, self.bar, self.log, self.asked_to_stop = fabric, plan, bar, log, asked_to_stop
        self.keep_picture, self.loggers = keep_picture, loggers or []
        self.options = plan.options
        self.device: torch.device = fabric.device
        self.learner = Learner(fabric, plan)
        self.objective = self.learner.objective
        self.reader = resident(plan.reader(), self.device, self.options.data)
        self.workers = self.options.workers if isinstance(self.reader, Reader) else 0
        self.batch_size = plan.batch_size(fabric.world_size, self.objective.together)
        self.history, self.health = History(), Health()
        self.watch = Watch(self.learner.judge, steps_behind(self.learner.stepper))
        self.latest = math.nan, math.nan
        """loss and gradient norm of the last completed step"""
        self.saving = Saving(StateFolder(plan.state), self.learner, self.history, self.health)

    # The loop

    def run(self) -> None:
        """Resume or start, then take step after step to the end."""
        learner, objective, history = self.learner, self.objective, self.history
        if self.saving.resume():
            self.log(f"resumed at step {history.step}")
        else:
            for remark in objective.remarks():
                self.log(remark)
            with self.memory_errors("the pass before the first step", self.batch_size, "Lower batch_size or size."):
                self.begin()
        self.per_epoch = len(objective.batches(self.plan.seed, 0, self.batch_size))
        self.total = self.options.max_steps or self.options.epochs * self.per_epoch
        self.bar.total = self.total * self.batch_size
        self.bar.resume(history.step * self.batch_size)
        events = Events(self.plan.events if self.fabric.is_global_zero else None, history.step)
        self.saved_s = history.row_s = time.monotonic()
        first = history.step
        advice = f"Raise pretrain.accumulate (the loss stays that of batch_size {self.batch_size}), or lower batch_size or size."
        for batch in load(self.reader, self.requests(), workers=self.workers, device=self.device):
            step = history.step
            epoch, within = divmod(step, self.per_epoch)
            if within == 0:
                objective.start_epoch(epoch, self.plan.seed)
            lr = learner.set_schedule(step, self.total)
            objective.before_step(step / self.total, step)
            when = "the first step" if step == first else f"step {step + 1}"
            with self.memory_errors(when, self.batch_size // self.options.accumulate, advice):
                loss, outputs = learner.forward_backward(batch, step)
                objective.after_backward(step)
                figures = learner.stepper.figures(loss.value)
                self.watch.add(figures, batch, step)
                self.note_steps()
                learner.stepper.update(figures[1])
            with torch.no_grad():
                objective.after_step(outputs, batch, (step + 1) / self.total)
                learner.update_ema()
            history.step += 1
            step = history.step
            epoch_ends = step % self.per_epoch == 0 or step == self.total
            if (self.per_epoch - within) * self.batch_size <= REMEMBERED + self.batch_size or self.total - step < 8:
                self.health.remember({n: gather(t) for n, t in outputs.items() if n in HEALTH_OUTPUTS}, gather(batch.rows))
            if epoch_ends or step % max(1, self.total // CURVE_ROWS) == 0:
                self.note_steps(everything=True)
                said = {name: float(value) for name, value in loss.parts.items()} | objective.figures()
                said |= self.health.measure(self.plan.samples) if epoch_ends else {}
                row = history.add_row(epoch, self.batch_size, lr, self.latest[1], said)
                events.write(step, row)
                write_all(self.loggers, step, row, self.log)
            if epoch_ends:
                self.draw(epoch, outputs)
                self.alarm(collapse(row) or nothing_to_predict(history.rows))
            self.bar.advance(self.batch_size, f"loss {self.latest[0]:.3f}")
            self.save_or_stop()
        events.close()

    # Before the first step

    def begin(self) -> None:
        """Do what objectives need once: their own preparation, and a pass that fills a memory. Saved immediately, as it may take
        long.

        Raises:
            PreemptedError: the run is asked to stop, or its time ends; there is nothing to save yet.
            NotFiniteError: with the ids of the images that hold such numbers.
        """
        objective = self.objective
        objective.prepare(self.plain_images, self.plan.seed, self.device)
        if objective.memory_pass:
            self.fill_memory(objective.memory_order(self.plan.seed, self.batch_size))
        if objective.memory_pass or type(objective).prepare is not Objective.prepare:
            self.save()

    def fill_memory(self, order: np.ndarray) -> None:
        """Fill the objective's memory of each row before the first step, computed as in a step: batch norm with the batch's own
        statistics. Those of a fresh network, mean 0 and variance 1, would make all images look the same.
        """
        with torch.no_grad(), still_statistics(self.objective):
            for number, batch in enumerate(load(self.reader, self.all_rows(0, order, filled=True), device=self.device)):
                views = self.learner.make_views(batch)
                self.check_beginning(views, gather(batch.rows))
                self.learner.seed(number, "memory")
                self.objective.after_step(self.learner.module(views, batch), batch, 0.0)

    def plain_images(self, epoch: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """All samples without randomness, `(n, c, *size)`, with their rows."""
        crop = self.objective.crops(self.plan.size)[0]
        views = Views(ViewOptions.still(self.options.views.fit), [Crop(1, crop.size)], self.plan.samples, seed=self.plan.seed)
        order = epoch_order(self.plan.seed, epoch, len(self.plan.samples))
        for batch in load(self.reader, self.all_rows(epoch, order, whole=True), device=self.device):
            images = views(batch)
            self.check_beginning(images, batch.rows, whole=True)
            yield images[0], batch.rows.cpu().numpy()

    def check_beginning(self, views: list[Tensor], rows: Tensor, *, whole: bool = False) -> None:
        """Check a batch before the first step: its numbers, and whether to stop. `whole`: every rank has all of it.

        Raises:
            NotFiniteError, PreemptedError: on every rank.
        """
        self.learner.check_images(views, rows, whole=whole)
        if self.wants_to_stop():
            raise PreemptedError("stopped before the first step, with nothing to save yet; the same command begins again.")

    def all_rows(
        self, epoch: int, order: np.ndarray, *, whole: bool = False, filled: bool = False
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The rows of `order` as requests, divided among the ranks; the last batch is padded with first rows to equal shares.

        `filled`: pad it to a full batch.
        """
        count, world = len(order), 1 if whole else self.fabric.world_size
        for at in range(0, count, self.batch_size):
            size = self.batch_size if filled else math.ceil(min(self.batch_size, count - at) / world) * world
            rows = np.arange(at, at + size) % count
            yield epoch, order[rows] if whole else self.own(order[rows])

    # One step

    def requests(self) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, rows of this rank) of each remaining step; workers may run ahead in it."""
        batches: list[np.ndarray] = []
        known = -1
        for step in range(self.history.step, self.total):
            epoch, within = divmod(step, self.per_epoch)
            if epoch != known:
                batches, known = self.objective.batches(self.plan.seed, epoch, self.batch_size), epoch
            yield epoch, self.own(batches[within])

    def own(self, rows: np.ndarray) -> np.ndarray:
        """The part of a batch for this rank: rank order is batch order."""
        share = len(rows) // self.fabric.world_size
        return rows[self.fabric.global_rank * share : (self.fabric.global_rank + 1) * share]

    def note_steps(self, *, everything: bool = False) -> None:
        """Add up the losses of the steps that are due, or of all.

        Raises:
            NotFiniteError: a step was not finite.
        """
        for loss, norm in self.watch.read(everything=everything):
            self.history.add_loss(loss)
            self.latest = loss, norm

    def memory_errors(self, when: str, samples: int, advice: str) -> Any:
        """All batches have the same size, so memory runs out in the first step or never; `samples` at a time over all ranks."""
        return memory_errors(when, samples // self.fabric.world_size, self.device, advice)

    # Outputs

    def draw(self, epoch: int, outputs: dict[str, Tensor]) -> None:
        """Save the objective's pictures of the first samples of the batch: a column for each sample."""
        last = (self.total - 1) // self.per_epoch
        if self.keep_picture is None or (epoch != last and epoch % math.ceil((last + 1) / PICTURED_EPOCHS)):
            return
        rows = self.objective.pictures({name: value[:PICTURED] for name, value in outputs.items()})
        if rows and self.fabric.is_global_zero:
            self.keep_picture(epoch, grid(rows))

    def alarm(self, sentence: str | None) -> None:
        """Warn that the representation has collapsed; stop if the study asks for it."""
        if sentence is None:
            return
        step = self.history.step
        self.log(f"alarm at step {step}: {sentence}")
        if self.options.on_collapse == "stop":
            self.history.collapsed = (
                f"alarm at step {step}: {sentence}. The state is kept, and the same command stops here again. Lower "
                "pretrain.lr, change the objective's options or the views, or set on_collapse: warn; the run then begins again."
            )
            self.save(final=step == self.total)
            raise NotFiniteError(self.history.collapsed)

    def save_or_stop(self) -> None:
        """Save when it is time, when the run ends, and when it is asked to stop.

        Raises:
            PreemptedError: after saving.
        """
        step = self.history.step
        done = step == self.total
        stop = not done and self.wants_to_stop()
        due = any_rank(time.monotonic() - self.saved_s > self.options.checkpoint_every_s, self.device)
        if stop or due or done:
            self.save(final=done)
        if stop:
            raise PreemptedError(f"stopped at step {step:,} of {self.total:,} and saved; the same command resumes there.")

    def wants_to_stop(self) -> bool:
        """Whether a signal reached any rank, or the SLURM job ends soon."""
        return any_rank(is_near_its_end(self.options.stop_before_deadline_s) or self.asked_to_stop(), self.device)

    def save(self, *, final: bool = False) -> None:
        """Save the state, only after finite steps; see `Saving.save`."""
        self.note_steps(everything=True)
        self.saving.save(final=final)
        self.saved_s = time.monotonic()
