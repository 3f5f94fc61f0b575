"""What is saved of a run, and how it resumes, so that a stopped run ends with the same weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medssl.core.errors import MedsslError, NotFiniteError
from medssl.nn.gather import any_rank
from medssl.nn.health import Health
from medssl.nn.state import StateFolder, optimizer_tensors, restore_optimizer, under
from medssl.nn.weights import part_tensors
from medssl.pretrain.history import History
from medssl.pretrain.learner import Learner


@dataclass(frozen=True)
class Saving:
    """Writes the whole state of a run to its folder and restores it."""

    folder: StateFolder
    learner: Learner
    history: History
    health: Health

    def resume(self) -> bool:
        """Resume from the newest complete state; False if there is none.

        Raises:
            NotFiniteError: the run collapsed there and was to stop.
        """
        loaded = self.folder.load()
        if loaded is None:
            return False
        learner, (step, tensors, values) = self.learner, loaded
        learner.objective.load_state_dict(under("model", tensors))
        restore_optimizer(learner.optimizer.optimizer, under("optimizer", tensors))
        self.health.restore(under("health", tensors))
        if learner.ema is not None:
            learner.ema.load_state_dict(under("ema", tensors))
        self.history.restore(step, values)
        learner.stepper.skipped = values["skipped"]
        if values.get("collapsed") is not None and learner.options.on_collapse == "stop":
            raise NotFiniteError(values["collapsed"])
        if values["scaler"]:
            learner.fabric.strategy.precision.load_state_dict(values["scaler"])
        return True

    def save(self, *, final: bool = False) -> None:
        """Write the whole state; with the last step also the encoder and the saved parts.

        Raises:
            MedsslError: on every rank the first rank's error, so that none waits for one that has ended.
        """
        error: MedsslError | None = None
        if self.learner.fabric.is_global_zero:
            try:
                self._write(final=final)
            except MedsslError as met:
                error = met
        if any_rank(error is not None, self.learner.device):
            raise self.learner.fabric.broadcast(error)

    def _write(self, *, final: bool) -> None:
        """The first rank's part of `save`."""
        learner, history = self.learner, self.history
        encoder = learner.ema if learner.ema is not None else learner.objective.encoder()
        kinds: dict[str, dict[str, Tensor]] = {
            "model": learner.objective.state_dict(),
            "optimizer": optimizer_tensors(learner.optimizer.optimizer),
            "health": self.health.tensors(),
            "ema": learner.ema.state_dict() if learner.ema is not None else {},
            "encoder": encoder.state_dict() if final else {},
            "parts": part_tensors(learner.objective.parts()) if final else {},
        }
        tensors = {f"{kind}/{name}": t for kind, named in kinds.items() for name, t in named.items()}
        broken = [name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
        if broken:
            raise NotFiniteError(
                f"step {history.step}: {broken[0]} is not finite; the last good state is kept. "
                "Lower pretrain.lr or set clip_norm."
            )
        scaler = dict(learner.fabric.strategy.precision.state_dict())
        self.folder.save(history.step, tensors, history.plain() | {"skipped": learner.stepper.skipped, "scaler": scaler})
