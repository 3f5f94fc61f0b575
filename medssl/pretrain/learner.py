"""One process's network and its training step: views, loss and gradients in one pass or in parts, the update."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from medssl.core.errors import NotFiniteError
from medssl.core.rng import key
from medssl.nn.backbone import Backbone, backbones_in
from medssl.nn.checkpointing import checkpoint_stages, still_statistics
from medssl.nn.depth import shares_of_rate
from medssl.nn.determinism import use_deterministic_algorithms
from medssl.nn.gather import gather, gather_keys, synchronise_batch_norm
from medssl.nn.layout import lay_out, layout_of
from medssl.nn.loading import Batch
from medssl.nn.momentum import average
from medssl.nn.optimizers import build_optimizer, cosine_between, warmup_cosine
from medssl.nn.stepping import Stepper, compile_network, scaler_of
from medssl.nn.views import Views
from medssl.pretrain.objective import HEALTH_OUTPUTS, Loss
from medssl.pretrain.options import TrainingOptions
from medssl.pretrain.plan import Plan

NAMED = 64
"""How many samples a message names."""


class Learner:
    """Objective, optimiser and running mean of one process; its methods follow the order of a step."""

    def __init__(self, fabric: Any, plan: Plan) -> None:
        self.fabric, self.plan = fabric, plan
        options = self.options = plan.options
        self.device: torch.device = fabric.device
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = not options.deterministic
            use_deterministic_algorithms(options.deterministic)
        self.objective = plan.objective()
        if fabric.world_size > 1 and self.objective.synchronises:
            synchronise_batch_norm(self.objective)
        if options.channels_last:
            lay_out(self.objective, self.device)
        self.backbones = backbones_in(self.objective)
        self.layout = layout_of(self.objective.backbone, options.spatial_dims + 2)
        self.ema: Backbone | None = copy.deepcopy(self.objective.encoder()) if options.ema_decay else None
        if self.ema is not None:
            self.ema.to(self.device)
        if options.activation_checkpointing:
            checkpoint_stages(self.objective.backbone)
        compile_network(self.objective.backbone, options.compile)
        optimizer = build_optimizer(
            options.optimizer,
            self.objective,
            lr=options.lr,
            weight_decay=options.weight_decay,
            momentum=options.momentum,
            beta2=options.beta2,
            decay_norm_and_bias=options.decay_norm_and_bias,
            shares=self._shares_of_rate(),
            fused=scaler_of(fabric) is None,
        )
        self.stepper = Stepper(fabric, self.objective, optimizer, options.clip_norm, graphs=options.compile == "reduce-overhead")
        self.module, self.optimizer = self.stepper.module, self.stepper.optimizer
        self.views = Views(options.views, self.objective.crops(plan.size), plan.samples, seed=plan.seed)

    def _shares_of_rate(self) -> dict[str, float]:
        """By parameter of the backbone, its share of the learning rate, if they differ."""
        options = self.options
        if options.layer_decay == options.stem_lr_frac == 1:
            return {}
        shares = shares_of_rate(self.objective.backbone, layer_decay=options.layer_decay, stem_frac=options.stem_lr_frac)
        return {f"backbone.{name}": share for name, share in shares.items()}

    def set_schedule(self, step: int, total: int) -> float:
        """Set learning rate and weight decay of a step; returns the rate."""
        return set_schedule(self.optimizer, self.options, step, total)

    def make_views(self, batch: Batch) -> list[Tensor]:
        """The objective's views, on the device, in the memory layout of the network."""
        with torch.no_grad():
            kept, batch.keys = batch.keys, self.objective.view_keys(batch)
            views = self.views(batch)
            batch.keys = kept
            return [view.contiguous(memory_format=self.layout) for view in views]

    def forward_backward(self, batch: Batch, step: int) -> tuple[Loss, dict[str, Tensor]]:
        """Loss and gradients of a batch, in one pass or in parts that together give the loss of the whole."""
        self.seed(step)
        for backbone in self.backbones:
            backbone.draw(self.plan.seed, step)
        self.stepper.begin()
        if self.objective.sees_whole_batch:
            batch.whole = gather_keys(batch.keys, self.device)
        parts = self.options.accumulate
        if parts == 1:
            outputs = self.module(self.make_views(batch), batch)
            loss = self.objective.loss(outputs, batch)
            self.stepper.backward(loss.value)
            return loss, _detached(outputs)
        share = len(batch) // parts
        pieces = [batch.part(p * share, (p + 1) * share) for p in range(parts)]
        return self._in_parts(batch, pieces, step) if self.objective.contrasts else self._in_additive_parts(pieces)

    def judge(self, loss: float, norm: float, batch: Batch, step: int) -> None:
        """Accept a step if its loss and gradient norm are finite; fp16's loss scaling may discard a few gradients.

        Raises:
            NotFiniteError: with the ids of the batch over all ranks; the last saved state is from before.
        """
        if self.stepper.is_sound(loss, norm):
            return
        # of all ranks, those with numbers that are not finite first
        rows, sound = gather(batch.rows), gather(batch.values.flatten(1).isfinite().all(1))
        raise NotFiniteError(
            f"step {step + 1}: loss {loss}, gradient norm {norm}; nothing of it was saved, and the last good state is kept. "
            f"Samples of the batch: {self.names(rows[sound.int().argsort(stable=True)].tolist())}. "
            "Look at these images; if they are sound, lower pretrain.lr or set clip_norm."
        )

    def check_images(self, views: list[Tensor], rows: Tensor, *, whole: bool = False) -> None:
        """Check the numbers of a batch before the first step. `whole`: every rank has all of it.

        Raises:
            NotFiniteError: on every rank, with the ids of the images that hold such numbers.
        """
        sound = torch.stack([view.flatten(1).isfinite().all(1) for view in views]).all(0)
        broken = rows[~(sound if whole else gather(sound))].unique().tolist()
        if broken:
            raise NotFiniteError(
                f"before the first step: {len(broken)} images of a batch hold numbers that are not finite: {self.names(broken)}. "
                "Look at these images, and leave them out or mend them."
            )

    def names(self, rows: list[int]) -> str:
        """The ids of samples, at most `NAMED` of them."""
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        return ", ".join(self.plan.samples.ids[row] for row in rows[:NAMED]) + more

    def update_ema(self) -> None:
        """Update the running mean of the encoder's weights; buffers are copied."""
        if self.ema is not None and self.options.ema_decay is not None:
            average(self.ema, self.objective.encoder(), self.options.ema_decay)

    def seed(self, step: int, *part: int | str) -> None:
        """Seed the dropout of a step on this process, or of a part: both passes of a part must drop the same units."""
        torch.manual_seed(key(self.plan.seed, "torch", step, self.fabric.global_rank, *part) >> 1)

    def _in_parts(self, batch: Batch, pieces: list[Batch], step: int) -> tuple[Loss, dict[str, Tensor]]:
        """All outputs without gradient, the loss of the whole, its gradient for each output, then each part again with that
        gradient:
        twice the forward work, the memory of one part.

        Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size", arXiv 2101.06983, §3.
        """
        share = len(pieces[0])
        with torch.no_grad(), still_statistics(self.objective):
            made = []
            for number, piece in enumerate(pieces):
                self.seed(step, number)
                made.append(self.module(self.make_views(piece), piece))
        whole = {name: torch.cat([outputs[name] for outputs in made]) for name in made[0]}
        wanted = [name for name, value in whole.items() if value.is_floating_point() and name not in HEALTH_OUTPUTS]
        for name in wanted:
            whole[name].requires_grad_()
        loss = self.objective.loss(whole, batch)
        gradients = dict(zip(wanted, torch.autograd.grad(loss.value, [whole[n] for n in wanted], allow_unused=True), strict=True))
        for number, piece in enumerate(pieces):
            rows = slice(number * share, (number + 1) * share)
            self.seed(step, number)
            with self.fabric.no_backward_sync(self.module, enabled=number < len(pieces) - 1):
                outputs = self.module(self.make_views(piece), piece)
                pulls = [
                    (outputs[name] * gradient[rows]).sum()
                    for name, gradient in gradients.items()
                    if gradient is not None and outputs[name].requires_grad
                ]
                self.stepper.backward(torch.stack(pulls).sum())
        return Loss(loss.value.detach(), loss.parts), _detached(whole)

    def _in_additive_parts(self, pieces: list[Batch]) -> tuple[Loss, dict[str, Tensor]]:
        """The same if the loss of a batch is the mean of its parts' losses: one pass each."""
        losses, made = [], []
        for number, piece in enumerate(pieces):
            with self.fabric.no_backward_sync(self.module, enabled=number < len(pieces) - 1):
                outputs = self.module(self.make_views(piece), piece)
                loss = self.objective.loss(outputs, piece)
                self.stepper.backward(loss.value / len(pieces))
            losses.append(loss)
            made.append(_detached(outputs))
        whole = {name: torch.cat([outputs[name] for outputs in made]) for name in made[0]}
        return Loss(torch.stack([loss.value.detach() for loss in losses]).mean(), losses[-1].parts), whole


def set_schedule(optimizer: Any, options: TrainingOptions, step: int, total: int) -> float:
    """Set learning rate and weight decay of a step of `total` in every group of parameters; returns the rate."""
    lr = options.lr * warmup_cosine(step, total, options.warmup_frac, options.final_lr_frac)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["share"]
        if group["decays"] and options.final_weight_decay is not None:
            group["weight_decay"] = cosine_between(options.weight_decay, options.final_weight_decay, step / total)
    return lr


def _detached(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in outputs.items()}
