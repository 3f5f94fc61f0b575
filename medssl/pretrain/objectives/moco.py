"""MoCo v2: a view's key, from a network that follows slowly, is contrasted with a queue of earlier keys.

Source: He et al., arXiv 1911.05722, algorithm 1; Chen et al., arXiv 2003.04297 (MLP head, temperature 0.2).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from medssl.core.bounds import Count, Momentum, Positive, Widths
from medssl.core.rng import rng
from medssl.nn.backbone import Backbone, pooled
from medssl.nn.gather import gather, normalised, rank, world_size
from medssl.nn.heads import perceptron
from medssl.nn.loading import Batch, Samples
from medssl.nn.momentum import follow, momentum_copy
from medssl.pretrain.objective import Loss, Objective, health_outputs, require_other_volumes

TITLE = "MoCo v2"
SOURCE = "He et al., CVPR 2020, arXiv 1911.05722"
ON_PICTURES = {"exclude_same_volume": False}


class MoCo(Objective):
    """A queue of keys as negatives; the key network's batch statistics are those of the whole batch, or of shuffled groups.

    `exclude_same_sample` (and `_volume`) exclude earlier keys of the same image (volume) from the negatives, which matters if
    the queue is longer than the cohort. `key_norm: shuffle` is the paper's guard against leaking batch statistics. Each process
    normalises its own part of a shuffled batch; a single process makes `shuffle_groups` parts.

    Options:
        temperature: of the softmax; lower is sharper.
        projector: widths of the layers of the projector, a perceptron on the mean of the deepest map; the last is the
            embedding's.
        queue: earlier keys that are negatives.
        momentum: share of itself that the key network keeps at each step.
        key_norm: whether the key network's batch statistics are those of the whole batch (`synchronised`) or of parts of
            a shuffled batch (`shuffle`).
        shuffle_groups: parts that a single process makes of a shuffled batch for normalisation.
        exclude_same_sample: whether earlier keys of the same image are excluded from the negatives.
        exclude_same_volume: whether earlier keys of the same volume are excluded as well.
    """

    contrasts = False

    queue: Float[Tensor, "places d"]
    queue_row: Int64[Tensor, "places"]
    queue_volume: Int64[Tensor, "places"]
    queue_step: Int64[Tensor, "places"]
    queue_next: Int64[Tensor, ""]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        temperature: Positive = 0.2,
        projector: Widths = (2048, 128),
        queue: Count = 65536,
        momentum: Momentum = 0.999,
        key_norm: Literal["synchronised", "shuffle"] = "synchronised",
        shuffle_groups: Count = 4,
        exclude_same_sample: bool = True,
        exclude_same_volume: bool = False,
    ) -> None:
        super().__init__(backbone, samples)
        if exclude_same_volume:
            require_other_volumes(samples, "exclude_same_volume takes negatives", "set it to false")
        self.temperature, self.momentum, self.key_norm, self.shuffle_groups = temperature, momentum, key_norm, shuffle_groups
        self.exclude_same_sample, self.exclude_same_volume = exclude_same_sample, exclude_same_volume
        self.synchronises = key_norm == "synchronised"
        self.projector = perceptron([backbone.channels[-1], *projector], norm=False)
        self.key_network = momentum_copy(nn.ModuleList([self.backbone, self.projector]))
        self.register_buffer("queue", F.normalize(torch.randn(queue, projector[-1]), dim=1))
        self.register_buffer("queue_row", torch.full((queue,), -1))
        self.register_buffer("queue_volume", torch.full((queue,), -1))
        self.register_buffer("queue_step", torch.zeros(queue, dtype=torch.int64))
        self.register_buffer("queue_next", torch.zeros((), dtype=torch.int64))

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        features = pooled(self.backbone(views[0]))
        query = normalised(self.projector(features))
        with torch.no_grad():
            key_features, key = self._shuffled_keys(views[1]) if self.key_norm == "shuffle" else self._keys(views[1])
        return {
            "query": query,
            "key": key,
            **health_outputs([features, key_features], [query, key]),
        }

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        query = outputs["query"]
        negatives = query @ self.queue.clone().T
        own = torch.zeros_like(negatives, dtype=torch.bool)
        if self.exclude_same_sample:
            own |= batch.rows[:, None] == self.queue_row[None, :]
        if self.exclude_same_volume:
            own |= batch.volume[:, None] == self.queue_volume[None, :]
        positive = (query * outputs["key"]).sum(1, keepdim=True)
        logits = torch.cat([positive, negatives.masked_fill(own, float("-inf"))], 1) / self.temperature
        return Loss(F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device)))

    def after_step(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch, progress: float) -> None:
        """Move the key network; the batch's keys replace the oldest."""
        follow(self.key_network, nn.ModuleList([self.backbone, self.projector]), self.momentum)
        keys, rows, volumes = gather(outputs["key"]), gather(batch.rows), gather(batch.volume)
        keys, rows, volumes = keys[-len(self.queue) :], rows[-len(self.queue) :], volumes[-len(self.queue) :]
        places = (self.queue_next + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[places] = keys
        self.queue_row[places], self.queue_volume[places] = rows, volumes
        self.queue_step[places] = self.step
        self.queue_next.copy_((self.queue_next + len(keys)) % len(self.queue))

    def figures(self) -> dict[str, float]:
        """Mean age in steps and filled share of the queue."""
        known = self.queue_row >= 0
        age = (self.step - self.queue_step[known]).float().mean().item() if bool(known.any()) else 0.0
        return {"queue_age": age, "queue_filled": known.float().mean().item()}

    def _keys(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = pooled(self.key_network[0](images))
        return features, normalised(self.key_network[1](features))

    def _shuffled_keys(self, images: Tensor) -> tuple[Tensor, Tensor]:
        everyone, world = gather(images), world_size()
        parts = world if world > 1 else min(self.shuffle_groups, len(images) // 2)
        order = torch.from_numpy(rng(0, "shuffle", self.step).permutation(len(everyone))).to(images.device)
        groups = everyone[order].tensor_split(parts)
        made = [self._keys(group) for group in (groups if world == 1 else [groups[rank()]])]
        back = torch.argsort(order)[rank() * len(images) : (rank() + 1) * len(images)]
        features, keys = (gather(torch.cat(part))[back] for part in zip(*made, strict=True))
        return features, keys
