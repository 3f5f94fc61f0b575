"""The training loop: one visible file, top to bottom. Objectives say what is learnt, this says how, and loses nothing.

A run is a function of its plan: order, views and dropout are drawn from names (seed, epoch, step, sample id), and the state
that is saved holds all the rest. So a run that was stopped anywhere and resumed ends with the same weights.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medssl.core import plugins
from medssl.core.errors import MedsslError, NotFiniteError, OutOfMemoryError, PreemptedError, StudyError
from medssl.core.progress import Bar
from medssl.core.rng import key
from medssl.core.study import PretrainSettings, ViewSettings
from medssl.nn.backbone import Backbone, build
from medssl.nn.determinism import use_deterministic_algorithms
from medssl.nn.gather import any_rank, averaged, gather, synchronise_batch_norm
from medssl.nn.health import REMEMBERED, Health, collapse
from medssl.nn.layout import lay_out, layout_of
from medssl.nn.loading import Batch, Reader, Samples, epoch_order, load
from medssl.nn.optimizers import build_optimizer, cosine_between, warmup_cosine
from medssl.nn.state import StateFolder, optimizer_tensors, restore_optimizer, under
from medssl.nn.views import Crop, Views
from medssl.nn.weights import load_encoder, load_parts, part_tensors
from medssl.pretrain.objective import Loss, Objective
from medssl.pretrain.picture import grid

CURVE_ROWS = 200
"""About how many rows the curve has beside those at the ends of epochs."""
PICTURED = 8
"""How many samples of an epoch's last batch are drawn."""
PICTURED_EPOCHS = 100
"""Of how many epochs pictures are kept, evenly spread, the last among them."""
FP16_SKIPS = 20
"""How many steps in a row fp16's loss scaling may skip before the gradients count as broken."""
NAMED = 64
"""How many samples a sentence names."""


@dataclass(frozen=True)
class Plan:
    """All that a run depends on; it can be sent to another process."""

    settings: PretrainSettings
    seed: int
    samples: Samples
    state: Path
    events: Path | None = None
    before: dict[str, Path] = field(default_factory=dict)
    """`encoder` and `parts` of the run that this one goes on from."""

    @property
    def size(self) -> tuple[int, ...]:
        """The views' size, one number per dimension."""
        size, dims = self.settings.size, self.settings.spatial_dims
        return tuple(size) if len(size) == dims else (size[0],) * dims

    def reader(self) -> Reader:
        """What reads this plan's batches: planes, or in 3-D patches round each slice with room for random crops."""
        if self.settings.spatial_dims == 2:
            # A crop of the middle of the range of scales then still has the resolution of the view.
            share = sum(self.settings.views.scale) / 2
            return Reader(self.samples, seed=self.seed, shrink_to=math.ceil(max(self.size) / math.sqrt(share)))
        i, j, k = (math.ceil(s * self.settings.patch_margin) for s in self.size)
        return Reader(self.samples, seed=self.seed, patch=(i, j, k))

    def objective(self) -> Objective:
        """The objective with fresh weights, or the named starting weights, on the CPU."""
        settings = self.settings
        torch.manual_seed(key(self.seed, "weights") >> 1)
        backbone = build(settings.backbone.name, settings.backbone.options, settings.spatial_dims, self.samples.num_channels)
        if settings.init_weights is not None:
            load_encoder(settings.init_weights, backbone, foreign=True)
        if self.before:
            load_encoder(self.before["encoder"], backbone)
        built: Objective = plugins.find("objective", settings.objective.name).load()(
            backbone, self.samples, **settings.objective.options
        )
        if self.before:
            load_parts(self.before["parts"], built.parts())
        return built


def train(
    fabric: Any, plan: Plan, bar: Bar, log: Callable[[str], None], keep_picture: Callable[[int, np.ndarray], None] | None = None
) -> MedsslError | None:
    """Train until the last step is saved in the plan's state folder; a foreseen failure is returned, not raised.

    `keep_picture(epoch, pixels)` gets what an objective draws at the end of an epoch.
    """
    try:
        with _stop_signals() as asked_to_stop:
            _Run(fabric, plan, bar, log, asked_to_stop, keep_picture).run()
    except MedsslError as error:
        return error
    return None


class _Run:
    """One process's part of a run. `run` is the loop; what it calls follows in the order of the calls."""

    def __init__(
        self,
        fabric: Any,
        plan: Plan,
        bar: Bar,
        log: Callable[[str], None],
        asked_to_stop: Callable[[], bool],
        keep_picture: Callable[[int, np.ndarray], None] | None = None,
    ) -> None:
        self.fabric, self.plan, self.bar, self.log, self.asked_to_stop = fabric, plan, bar, log, asked_to_stop
        self.keep_picture = keep_picture
        settings = self.settings = plan.settings
        self.device: torch.device = fabric.device
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = not settings.deterministic
            use_deterministic_algorithms(settings.deterministic)
        self.objective = plan.objective()
        if fabric.world_size > 1 and self.objective.synchronises:
            synchronise_batch_norm(self.objective)
        if settings.channels_last:
            lay_out(self.objective, self.device)
        self.layout = layout_of(self.objective.backbone, settings.spatial_dims + 2)
        self.ema: Backbone | None = copy.deepcopy(self.objective.encoder()) if settings.ema_decay else None
        if self.ema is not None:
            self.ema.to(self.device)
        if settings.compile:
            self.objective.backbone.compile()
        optimizer = build_optimizer(
            settings.optimizer,
            self.objective,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            beta2=settings.beta2,
            decay_norm_and_bias=settings.decay_norm_and_bias,
            fused=getattr(fabric.strategy.precision, "scaler", None) is None,
        )
        self.module, self.optimizer = fabric.setup(self.objective, optimizer)
        self.views = Views(settings.views, self.objective.crops(plan.size), plan.samples, seed=plan.seed)
        self.reader = plan.reader()
        shares = fabric.world_size * settings.accumulate
        self.batch_size = _batch_size(settings.batch_size, len(plan.samples), shares, self.objective.together)
        self.state = StateFolder(plan.state)
        self.health = Health()
        self.step = 0
        self.rows: list[dict[str, Any]] = []
        self.since_row = {"loss": 0.0, "steps": 0.0}
        self.skipped = 0
        self.collapsed: str | None = None

    # The loop

    def run(self) -> None:
        """Resume or begin, then step after step to the end."""
        if not self.resume():
            with self.memory_errors("the pass before the first step", self.batch_size, "Lower batch_size or size."):
                self.begin()
        settings, objective = self.settings, self.objective
        self.per_epoch = len(objective.batches(self.plan.seed, 0, self.batch_size))
        self.total = settings.max_steps or settings.epochs * self.per_epoch
        self.bar.total = (self.total - self.step) * self.batch_size
        events = _Events(self.plan.events if self.fabric.is_global_zero else None, self.step)
        self.saved_s = self.row_s = time.monotonic()
        first = self.step
        advice = f"Raise pretrain.accumulate (the loss stays that of batch_size {self.batch_size}), or lower batch_size or size."
        for batch in load(self.reader, self.requests(), workers=settings.workers, device=self.device):
            epoch, within = divmod(self.step, self.per_epoch)
            progress = self.step / self.total
            if within == 0:
                objective.start_epoch(epoch, self.plan.seed)
            lr = self.set_schedule(progress)
            objective.before_step(progress, self.step)
            torch.manual_seed(key(self.plan.seed, "torch", self.step, self.fabric.global_rank) >> 1)
            when = "the first step" if self.step == first else f"step {self.step + 1}"
            with self.memory_errors(when, self.batch_size // self.settings.accumulate, advice):
                loss, outputs = self.forward_backward(batch)
                objective.after_backward(self.step)
                loss_value, norm = self.check_finite(loss, batch)
                self.update(norm)
            with torch.no_grad():
                objective.after_step(outputs, batch, (self.step + 1) / self.total)
                self.update_ema()
            self.step += 1
            self.since_row["loss"] += loss_value
            self.since_row["steps"] += 1
            epoch_ends = self.step % self.per_epoch == 0 or self.step == self.total
            if (self.per_epoch - within) * self.batch_size <= REMEMBERED + self.batch_size or self.total - self.step < 8:
                self.health.remember({n: gather(t) for n, t in outputs.items() if n in _LOOKED_AT}, gather(batch.rows))
            if epoch_ends or self.step % max(1, self.total // CURVE_ROWS) == 0:
                row = self.add_row(epoch, lr, norm, loss.parts, with_health=epoch_ends)
                events.write(self.step, row)
            if epoch_ends:
                self.draw(epoch, outputs)
                self.alarm(collapse(row))
            self.bar.advance(self.batch_size, f"loss {loss_value:.3f}")
            self.save_or_stop()
        events.close()

    # Before the first step

    def resume(self) -> bool:
        """Go on from the newest whole state; False if there is none.

        Raises:
            NotFiniteError: the run collapsed there and was to stop.
        """
        loaded = self.state.load()
        if loaded is None:
            return False
        self.step, tensors, values = loaded
        self.objective.load_state_dict(under("model", tensors))
        restore_optimizer(self.optimizer.optimizer, under("optimizer", tensors))
        self.health.restore(under("health", tensors))
        if self.ema is not None:
            self.ema.load_state_dict(under("ema", tensors))
        self.rows, self.since_row, self.skipped = values["rows"], values["since_row"], values["skipped"]
        if values.get("collapsed") is not None and self.settings.on_collapse == "stop":
            raise NotFiniteError(values["collapsed"])
        if values["scaler"]:
            self.fabric.strategy.precision.load_state_dict(values["scaler"])
        self.log(f"resumed at step {self.step}")
        return True

    def begin(self) -> None:
        """What objectives need once: their own preparation, and a pass that fills a memory. Saved at once, as it may be long.

        Raises:
            PreemptedError: somebody asks the run to stop, or its time ends; there is nothing to save yet.
            NotFiniteError: with the ids of the images that hold such numbers.
        """
        self.objective.prepare(self.plain_images, self.plan.seed, self.device)
        if self.objective.memory_pass:
            self.module.eval()
            order = self.objective.memory_order(self.plan.seed, self.batch_size)
            for batch in load(self.reader, self.all_rows(0, order), device=self.device):
                views = self.make_views(batch)
                self.check_beginning(views, gather(batch.rows))
                with torch.no_grad():
                    self.objective.after_step(self.module(views, batch), batch, 0.0)
            self.module.train()
        if self.objective.memory_pass or type(self.objective).prepare is not Objective.prepare:
            self.save()

    def plain_images(self, epoch: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """All samples without randomness, `(n, c, *size)`, with their rows."""
        crop = self.objective.crops(self.plan.size)[0]
        views = Views(ViewSettings.still(), [Crop(1, crop.size)], self.plan.samples, seed=self.plan.seed)
        order = epoch_order(self.plan.seed, epoch, len(self.plan.samples))
        for batch in load(self.reader, self.all_rows(epoch, order, whole=True), device=self.device):
            images = views(batch)
            self.check_beginning(images, batch.rows, whole=True)
            yield images[0], batch.rows.cpu().numpy()

    def check_beginning(self, views: list[Tensor], rows: Tensor, *, whole: bool = False) -> None:
        """Look at a batch before the first step: its numbers, and whether to stop. `whole`: every rank has all of it.

        Raises:
            NotFiniteError, PreemptedError: on every rank.
        """
        sound = torch.stack([view.flatten(1).isfinite().all(1) for view in views]).all(0)
        broken = rows[~(sound if whole else gather(sound))].unique().tolist()
        if broken:
            raise NotFiniteError(
                f"before the first step: {len(broken)} images of a batch hold numbers that are not finite: {self.names(broken)}. "
                "Look at these images, and leave them out or mend them."
            )
        if self.wants_to_stop():
            raise PreemptedError("stopped before the first step, with nothing to save yet; the same command begins again.")

    def all_rows(self, epoch: int, order: np.ndarray, *, whole: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        """The rows of `order` as requests; each rank its share (the last share is filled up with first rows)."""
        count, world = len(order), 1 if whole else self.fabric.world_size
        for at in range(0, count, self.batch_size):
            rows = np.arange(at, at + math.ceil(min(self.batch_size, count - at) / world) * world) % count
            yield epoch, order[rows] if whole else self.own(order[rows])

    # One step

    def requests(self) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, rows of this rank) of each step still to do; workers may run ahead in it."""
        batches: list[np.ndarray] = []
        known = -1
        for step in range(self.step, self.total):
            epoch, within = divmod(step, self.per_epoch)
            if epoch != known:
                batches, known = self.objective.batches(self.plan.seed, epoch, self.batch_size), epoch
            yield epoch, self.own(batches[within])

    def own(self, rows: np.ndarray) -> np.ndarray:
        """The part of a batch that is this rank's: rank order is batch order."""
        share = len(rows) // self.fabric.world_size
        return rows[self.fabric.global_rank * share : (self.fabric.global_rank + 1) * share]

    def set_schedule(self, progress: float) -> float:
        """Learning rate and weight decay of this step; returns the rate."""
        settings = self.settings
        lr = settings.lr * warmup_cosine(self.step, self.total, settings.warmup_frac, settings.final_lr_frac)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            if group["decays"] and settings.final_weight_decay is not None:
                group["weight_decay"] = cosine_between(settings.weight_decay, settings.final_weight_decay, progress)
        return lr

    def make_views(self, batch: Batch) -> list[Tensor]:
        """The objective's views, on the device, in the memory layout of the network."""
        with torch.no_grad():
            kept, batch.keys = batch.keys, self.objective.view_keys(batch)
            views = self.views(batch)
            batch.keys = kept
            return [view.contiguous(memory_format=self.layout) for view in views]

    def forward_backward(self, batch: Batch) -> tuple[Loss, dict[str, Tensor]]:
        """Loss and gradients of a batch, in one pass or in parts that together have the loss of the whole.

        With parts and a contrastive loss: all outputs without gradient, the loss of the whole, its gradient for each output,
        then each part again with that gradient (twice the forward work, the memory of one part).

        Source of the parts: Gao et al., "Scaling Deep Contrastive Learning Batch Size", arXiv 2101.06983, §3.
        """
        parts = self.settings.accumulate
        if parts == 1:
            outputs = self.module(self.make_views(batch), batch)
            loss = self.objective.loss(outputs, batch)
            self.fabric.backward(loss.value)
            return loss, _detached(outputs)
        share = len(batch) // parts
        pieces = [batch.part(p * share, (p + 1) * share) for p in range(parts)]
        if not self.objective.contrasts:
            return self.forward_backward_additive(pieces)
        with torch.no_grad(), _still_statistics(self.objective):
            made = []
            for number, piece in enumerate(pieces):
                self.seed_part(number)
                made.append(self.module(self.make_views(piece), piece))
        whole = {name: torch.cat([outputs[name] for outputs in made]) for name in made[0]}
        wanted = [name for name, value in whole.items() if value.is_floating_point() and name not in _LOOKED_AT]
        for name in wanted:
            whole[name].requires_grad_()
        loss = self.objective.loss(whole, batch)
        gradients = dict(zip(wanted, torch.autograd.grad(loss.value, [whole[n] for n in wanted], allow_unused=True), strict=True))
        for number, piece in enumerate(pieces):
            rows = slice(number * share, (number + 1) * share)
            self.seed_part(number)
            with self.fabric.no_backward_sync(self.module, enabled=number < parts - 1):
                outputs = self.module(self.make_views(piece), piece)
                pulls = [
                    (outputs[name] * gradient[rows]).sum()
                    for name, gradient in gradients.items()
                    if gradient is not None and outputs[name].requires_grad
                ]
                self.fabric.backward(torch.stack(pulls).sum())
        return Loss(loss.value.detach(), loss.parts), _detached(whole)

    def seed_part(self, number: int) -> None:
        """Dropout of a part of this step: both of its passes must lose the same units."""
        torch.manual_seed(key(self.plan.seed, "torch", self.step, self.fabric.global_rank, number) >> 1)

    def forward_backward_additive(self, pieces: list[Batch]) -> tuple[Loss, dict[str, Tensor]]:
        """The same where the loss of a batch is the mean of its parts' losses."""
        losses, made = [], []
        for number, piece in enumerate(pieces):
            with self.fabric.no_backward_sync(self.module, enabled=number < len(pieces) - 1):
                outputs = self.module(self.make_views(piece), piece)
                loss = self.objective.loss(outputs, piece)
                self.fabric.backward(loss.value / len(pieces))
            losses.append(loss)
            made.append(_detached(outputs))
        whole = {name: torch.cat([outputs[name] for outputs in made]) for name in made[0]}
        return Loss(torch.stack([loss.value.detach() for loss in losses]).mean(), losses[-1].parts), whole

    def check_finite(self, loss: Loss, batch: Batch) -> tuple[float, float]:
        """Mean loss over ranks and gradient norm, once both are finite: nothing has been changed by the step yet.

        Raises:
            NotFiniteError: with the ids of the batch over all ranks; the last saved state is from before.
        """
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        gradients = [p.grad for p in self.objective.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        loss_value, norm_value = torch.stack([averaged(loss.value).double(), norm.double()]).tolist()
        scaled = getattr(self.fabric.strategy.precision, "scaler", None) is not None
        self.skipped = self.skipped + 1 if scaled and math.isfinite(loss_value) and not math.isfinite(norm_value) else 0
        if math.isfinite(loss_value) and (math.isfinite(norm_value) or 0 < self.skipped <= FP16_SKIPS):
            return loss_value, norm_value
        # of all ranks, and first those whose numbers are not finite
        rows, sound = gather(batch.rows), gather(batch.values.flatten(1).isfinite().all(1))
        raise NotFiniteError(
            f"step {self.step + 1}: loss {loss_value}, gradient norm {norm_value}; nothing was updated, and the last good state "
            f"is kept. Samples of the batch: {self.names(rows[sound.int().argsort(stable=True)].tolist())}. "
            "Look at these images; if they are sound, lower pretrain.lr or set clip_norm."
        )

    def names(self, rows: list[int]) -> str:
        """The ids of samples, not more than a screen holds."""
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        return ", ".join(self.plan.samples.ids[row] for row in rows[:NAMED]) + more

    def update(self, norm: float) -> None:
        """Clip and step."""
        if self.settings.clip_norm is not None and math.isfinite(norm):
            parameters = [p for p in self.objective.parameters() if p.grad is not None]
            torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.clip_norm, torch.tensor(norm, device=self.device))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def update_ema(self) -> None:
        """The running mean of the encoder's weights; buffers are copied."""
        if self.ema is not None and self.settings.ema_decay is not None:
            for old, new in zip(self.ema.parameters(), self.objective.encoder().parameters(), strict=True):
                old.lerp_(new, 1 - self.settings.ema_decay)
            for kept, read in zip(self.ema.buffers(), self.objective.encoder().buffers(), strict=True):
                kept.copy_(read)

    # What is left behind

    def add_row(self, epoch: int, lr: float, norm: float, parts: dict[str, Any], *, with_health: bool) -> dict[str, Any]:
        """A row of the curve; at an epoch's end with health."""
        now_s = time.monotonic()
        steps = self.since_row["steps"]
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": self.step,
            "loss": self.since_row["loss"] / steps,
            "lr": lr,
            "images_per_s": steps * self.batch_size / max(now_s - self.row_s, 1e-9),
            "grad_norm": norm if math.isfinite(norm) else None,
        }
        row |= {name: float(value) for name, value in parts.items()} | self.objective.figures()
        if with_health:
            found = self.health.measure(self.plan.samples)
            row |= found
        self.since_row = {"loss": 0.0, "steps": 0.0}
        self.row_s = now_s
        self.rows.append(row)
        return row

    def draw(self, epoch: int, outputs: dict[str, Tensor]) -> None:
        """Hand over the objective's pictures of the first samples of the batch: a column for each sample."""
        last = (self.total - 1) // self.per_epoch
        if self.keep_picture is None or (epoch != last and epoch % math.ceil((last + 1) / PICTURED_EPOCHS)):
            return
        rows = self.objective.pictures({name: value[:PICTURED] for name, value in outputs.items()})
        if rows and self.fabric.is_global_zero:
            self.keep_picture(epoch, grid(rows))

    def alarm(self, sentence: str | None) -> None:
        """Say that the representation has collapsed; stop if the study asks for it."""
        if sentence is None:
            return
        self.log(f"collapse at step {self.step}: {sentence}")
        if self.settings.on_collapse == "stop":
            self.collapsed = (
                f"collapse at step {self.step}: {sentence}. The state is kept, and the same command stops here again. Lower "
                "pretrain.lr, change the objective's options or the views, or set on_collapse: warn; the run then begins anew."
            )
            self.save(final=self.step == self.total)
            raise NotFiniteError(self.collapsed)

    def save_or_stop(self) -> None:
        """Save when it is time, when the run ends, and when somebody asks it to stop.

        Raises:
            PreemptedError: after saving.
        """
        done = self.step == self.total
        stop = not done and self.wants_to_stop()
        due = any_rank(time.monotonic() - self.saved_s > self.settings.checkpoint_every_s, self.device)
        if stop or due or done:
            self.save(final=done)
        if stop:
            raise PreemptedError(f"stopped at step {self.step} of {self.total} and saved; the same command goes on from there.")

    def wants_to_stop(self) -> bool:
        """Whether a signal came to any rank, or the end of the SLURM job is near."""
        deadline = os.environ.get("SLURM_JOB_END_TIME", "")
        late = deadline.isdigit() and time.time() > int(deadline) - self.settings.stop_before_deadline_s
        return any_rank(late or self.asked_to_stop(), self.device)

    def save(self, *, final: bool = False) -> None:
        """Write the whole state; with the last step also the encoder and the parts that are kept.

        Raises:
            MedsslError: on every rank what the first met, so that none waits for one that has gone.
        """
        error: MedsslError | None = None
        if self.fabric.is_global_zero:
            try:
                self.write_state(final=final)
            except MedsslError as met:
                error = met
        if any_rank(error is not None, self.device):
            raise self.fabric.broadcast(error)
        self.saved_s = time.monotonic()

    def write_state(self, *, final: bool) -> None:
        """The first rank's part of `save`."""
        encoder = self.ema if self.ema is not None else self.objective.encoder()
        kinds: dict[str, dict[str, Tensor]] = {
            "model": self.objective.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer.optimizer),
            "health": self.health.tensors(),
            "ema": self.ema.state_dict() if self.ema is not None else {},
            "encoder": encoder.state_dict() if final else {},
            "parts": part_tensors(self.objective.parts()) if final else {},
        }
        tensors = {f"{kind}/{name}": t for kind, named in kinds.items() for name, t in named.items()}
        broken = [name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
        if broken:
            raise NotFiniteError(
                f"step {self.step}: {broken[0]} is not finite; the last good state is kept. Lower pretrain.lr or set clip_norm."
            )
        scaler = dict(self.fabric.strategy.precision.state_dict())
        values = {name: getattr(self, name) for name in ("rows", "since_row", "skipped", "collapsed")} | {"scaler": scaler}
        self.state.save(self.step, tensors, values)

    @contextlib.contextmanager
    def memory_errors(self, when: str, at_a_time: int, advice: str) -> Iterator[None]:
        """Turn running out of memory into a sentence; all batches are equally large, so it happens in the first step.

        `at_a_time` counts samples over all ranks.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            text = str(error)
            if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in text:
                raise
            peak = torch.cuda.max_memory_allocated() / 2**20 if self.device.type == "cuda" else _peak_mb()
            raise OutOfMemoryError(
                f"{when} does not fit: peak {peak:.0f} MB on {self.device}, {at_a_time // self.fabric.world_size} samples at a "
                f"time. {advice} Nothing was changed for you."
            ) from None


_LOOKED_AT = ("feature_a", "feature_b", "embedding_a", "embedding_b")


def _batch_size(wanted: int, samples: int, shares: int, together: int) -> int:
    """The batch of one optimiser step over all ranks: what the study says, or all samples where there are fewer.

    Raises:
        StudyError: it cannot be divided into `shares` equal parts of at least two, in groups of `together`.
    """
    unit = shares * together
    if wanted % unit:
        groups = f" × {together} slices of a volume (the option slices, or what the median volume has)" if together > 1 else ""
        raise StudyError(
            f"pretrain.batch_size {wanted} is the whole batch of a step and cannot be divided by "
            f"{shares} (devices × accumulate){groups}. Set it to a multiple of {unit}, such as {max(1, wanted // unit) * unit}."
        )
    size = min(wanted, samples - samples % unit)
    if size < max(unit, 2 * shares):
        raise StudyError(
            f"{samples} training samples are too few for {shares} parts of at least {max(2, together)}. "
            "Lower accumulate or devices, or keep more."
        )
    return size


def _detached(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in outputs.items()}


@contextlib.contextmanager
def _still_statistics(module: nn.Module) -> Iterator[None]:
    """Batch statistics are used but not remembered inside: the same images pass again with gradients."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm, norm.momentum, count, count.clone()) for norm in norms if (count := norm.num_batches_tracked) is not None]
    for norm, *_ in kept:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count, before in kept:
            norm.momentum = momentum
            count.copy_(before)


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM and SIGUSR1 only set a flag, which the returned function reads."""
    caught: list[int] = []
    try:
        before = {s: signal.signal(s, lambda number, _: caught.append(number)) for s in (signal.SIGTERM, signal.SIGUSR1)}
    except ValueError:  # not in the main thread: somebody else handles signals
        yield lambda: False
        return
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class _Events:
    """TensorBoard event files, written without torch's writer (whose import costs seconds)."""

    def __init__(self, folder: Path | None, step: int) -> None:
        self.writer: Any = None
        if folder is not None:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            folder.mkdir(parents=True, exist_ok=True)
            self.writer = EventFileWriter(str(folder), filename_suffix=f".from-{step}")

    def write(self, step: int, row: dict[str, Any]) -> None:
        """The numbers of a curve row at a step."""
        if self.writer is None:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=n, simple_value=v) for n, v in row.items() if n not in ("epoch", "step") and v is not None]
        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Flush."""
        if self.writer is not None:
            self.writer.close()
