"""The interface of an objective: the views and batches it needs, what it computes from them, and what it remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Shaped, UInt64
from torch import Tensor, nn

from medssl.core.errors import StudyError
from medssl.nn.backbone import Backbone
from medssl.nn.loading import Batch, Samples, epoch_order
from medssl.nn.views import Crop

FIXED_FRAC = 0.01
"""Share of a run in which learned prototypes stay fixed by default: SwAV fixes them for the first of 100 epochs."""
HEALTH_OUTPUTS = ("feature_a", "feature_b", "embedding_a", "embedding_b")
"""The outputs that only the health of the representation uses, not the loss."""
PlainImages = Callable[[int], Iterator[tuple[Float[Tensor, "n c ..."], Int64[np.ndarray, "n"]]]]
"""The plain images of all samples in batches, with their rows; a function of the epoch."""


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise, and figures to log under their names."""

    value: Float[Tensor, ""]
    parts: dict[str, float | Float[Tensor, ""]] = field(default_factory=dict)


class Objective(nn.Module):
    """Base of all objectives: `__init__(self, backbone, samples, *, options)`.

    One step is `outputs = objective(views, batch)`; `loss = objective.loss(outputs, batch)`; backward; optimiser;
    `objective.after_step(outputs, batch, progress)`. The first two change no state, so a failed step leaves none half changed.
    Everything that must survive a restart is a parameter or a buffer.
    """

    contrasts = True
    """The loss of a batch is not the mean of its parts' losses: accumulation then caches gradients of the outputs."""
    synchronises = True
    """Batch normalisation is over the batch of all ranks."""
    together = 1
    """How many consecutive rows of a batch must stay on one process and in one part."""
    sees_whole_batch = False
    """What it draws for an image depends on the other images of the batch: parts and ranks get the keys of all of it."""
    memory_pass = False
    """Before the first step, every sample passes through once without training, to fill a memory."""

    def __init__(self, backbone: Backbone, samples: Samples) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_samples = len(samples)
        self.progress, self.step = 0.0, 0

    def crops(self, size: tuple[int, ...]) -> list[Crop]:
        """The views of an image that are needed, for the study's `size`."""
        return [Crop(2, size)]

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[Int64[np.ndarray, "_"]]:
        """The rows of each batch of an epoch; a function of its arguments and of buffers that no step changes."""
        order = epoch_order(seed, epoch, self.num_samples)
        return [order[at : at + batch_size] for at in range(0, len(order) - batch_size + 1, batch_size)]

    def memory_order(self, seed: int, batch_size: int) -> Int64[np.ndarray, "_"]:
        """The rows of the pass that fills a memory, each at least once."""
        return epoch_order(seed, 0, self.num_samples)

    def view_keys(self, batch: Batch) -> UInt64[np.ndarray, "n"]:
        """The keys of the views' random draws, uint64 `(n,)`: equal keys get equal geometry."""
        return batch.keys

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        """Everything that has parameters: tensors whose first axis is the local batch.

        `feature_a`, `feature_b` (pooled backbone) and `embedding_a`, `embedding_b`, detached, serve the health checks.
        """
        raise NotImplementedError

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        """The mean loss of the local part against the whole batch, in float32; uses no parameters."""
        raise NotImplementedError

    def before_step(self, progress: float, step: int) -> None:
        """Called before each step; `progress` goes from 0 to 1 over the run."""
        self.progress, self.step = progress, step

    def after_backward(self, step: int) -> None:
        """Called with gradients in place, before they are checked and clipped: frozen parts discard theirs here."""

    def is_fixed(self, steps: int | None, step: int) -> bool:
        """Whether prototypes that stay fixed during the first `steps` do so in this step; None: a hundredth of the run."""
        return self.progress < FIXED_FRAC if steps is None else step < steps

    def after_step(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch, progress: float) -> None:
        """Updates momentum networks, queues, memories and prototypes; outputs and batch are the local ones."""

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Called before the first step of an epoch, when all earlier steps are done."""

    def prepare(self, images: PlainImages, seed: int, device: Any) -> None:
        """Called once, before everything: `images(epoch)` yields plain images `(n, c, *size)` of all samples with their rows."""

    def remarks(self) -> list[str]:
        """What the log reports before the first step, such as prototypes that are fewer than asked for."""
        return []

    def pictures(self, outputs: dict[str, Shaped[Tensor, "n ..."]]) -> list[Float[Tensor, "n c ..."]]:
        """Pictures of the outputs of some samples: rows of pictures, each `(n, c, *size)` in [0, 1]."""
        return []

    def figures(self) -> dict[str, float]:
        """Figures of the objective's own parts for the curve, such as the age of a queue."""
        return {}

    def encoder(self) -> Backbone:
        """The network that is saved."""
        return self.backbone

    def parts(self) -> dict[str, nn.Module]:
        """Further networks that are saved beside the encoder, by name, such as a decoder; a chained run continues with them."""
        return {}


def health_outputs(
    features: Sequence[Float[Tensor, "n d"]] | Float[Tensor, "views n d"],
    embeddings: Sequence[Float[Tensor, "n e"]] | Float[Tensor, "views n e"],
) -> dict[str, Float[Tensor, "n _"]]:
    """The outputs for the health checks: pooled features and embeddings `(n, d)` of the first two views."""
    return {
        "feature_a": features[0].detach().float(),
        "feature_b": features[1].detach().float(),
        "embedding_a": embeddings[0].detach().float(),
        "embedding_b": embeddings[1].detach().float(),
    }


def fewer_prototypes(asked: int, count: int, each: int, samples: int) -> list[str]:
    """A remark on `count` prototypes where more were asked for; `each`: the fewest samples that one stands for."""
    if count >= asked:
        return []
    return [f"{count} prototypes instead of {asked}: the run has {samples} samples, and each stands for {each} or more of them"]


def require_other_volumes(samples: Samples, what: str, otherwise: str) -> None:
    """Raises StudyError if `what` needs samples of other volumes and there are none; `otherwise`: what to do instead."""
    found = len(np.unique(samples.volume))
    if found < 2:
        raise StudyError(
            f"{what} of other volumes, and the kept samples are of {found} (pictures of one source and size count as one). Add "
            f"volumes, or {otherwise}."
        )
