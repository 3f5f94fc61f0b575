"""BECLR: a student predicts its slow teacher for the other view, and the nearest memories of other volumes.

Source: Poulakakis-Daktylidis and Jamali-Rad, "BECLR: Batch enhanced contrastive few-shot learning", arXiv 2402.02444, §4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor, nn

from medssl.core.bounds import Count, Fold, Fraction, Momentum, Part, Positive, Rising, Several, Weight, Widths
from medssl.core.rng import key
from medssl.nn.backbone import Backbone, pooled
from medssl.nn.gather import averaged, gather, mean_of_chosen, normalised
from medssl.nn.heads import perceptron
from medssl.nn.kinship import of_label, of_place
from medssl.nn.loading import Batch, Samples
from medssl.nn.momentum import cosine_momentum, follow, momentum_copy
from medssl.nn.neighbour_memory import NeighbourMemory
from medssl.nn.separation import uniformity_of_pairs
from medssl.pretrain.hidden_patches import hide_blocks
from medssl.pretrain.objective import Loss, Objective, health_outputs, require_other_volumes
from medssl.pretrain.outlines.beclr import side_of_patch

TITLE = "BECLR"
SOURCE = "Poulakakis-Daktylidis and Jamali-Rad, ICLR 2024, arXiv 2402.02444"
SMALL_BATCH = (2, "no other image spreads the embeddings. Raise batch_size")
AT_LEAST = {"memory": {"batch_size": 2, "clusters": 1, "neighbours": 1}}
"""Options that hold so many times another one, of the objective or of the run."""
SAMPLES_PER_CLUSTER = 40
KMEANS_ITERATIONS = 10
SAME_PLACE = 0.05
"""Difference of places in two volumes up to which two slices count as the same place."""


class BECLR(Objective):
    """BYOL's prediction with hidden blocks and a term that spreads the embeddings. Later on, the nearest memories of other
    volumes are further positives.

    The memory holds the teacher's embeddings of earlier views, in clusters. Neighbours are looked for in the cluster of the
    nearest prototype. New rows get clusters in equal shares, by Sinkhorn's iteration.

    Options:
        projector: widths of the layers of the projector, a perceptron on the mean of the deepest map; the last is the
            embedding's.
        predictor_hidden: width of the hidden layer of the predictor.
        momentum: share of itself that the teacher keeps at each step; it grows to 1 along half a cosine.
        hidden_patches: smallest and largest share of the patches of a view that the student does not see; null hides none.
        patch: side of these patches in pixels or voxels; null is a fourteenth of the view's, which is 16 of 224.
        uniformity: weight of the term that spreads the student's embeddings.
        temperature: of that term.
        memory: embeddings of earlier views that are kept, two for each sample of a batch.
        clusters: of the memory; null is one for 40 places, at most 200.
        neighbours: how many memories are positives of a view.
        neighbour_weight: weight of all neighbours together; the other view has 1.
        neighbour_temperature: of the softmax that divides this weight among them by their cosine; lower is sharper.
        memory_start: share of the run after which the memory is clustered and used.
        memory_ramp: share of the run in which the weight of the neighbours then rises from 0.
        recluster: share of the run after which the memory is clustered again.
        prototype_momentum: share of itself that a prototype keeps at each step; 0 makes it the mean of its members.
        epsilon: smoothness of the equal shares; lower is sharper.
        iterations: of Sinkhorn's algorithm.
        exclude_same_volume: whether slices of the same volume are not neighbours. Adjacent slices would be the nearest.
        pairing: what a neighbour is paired with: the prediction of the view (`neighbours`), or, as in the released code, the
            prediction that is stored beside it (`paper`), which has no gradient.
    """

    seed: Int64[Tensor, ""]
    known: Float64[Tensor, "samples"]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        projector: Widths = (512, 512, 512),
        predictor_hidden: Count = 128,
        momentum: Momentum = 0.995,
        hidden_patches: Rising | None = (0.05, 0.25),
        patch: Count | None = None,
        uniformity: Weight = 0.1,
        temperature: Positive = 2.0,
        memory: Count = 4096,
        clusters: Several | None = None,
        neighbours: Count = 5,
        neighbour_weight: Weight = 1.0,
        neighbour_temperature: Positive = 0.1,
        memory_start: Fold = 0.15,
        memory_ramp: Part = 0.1,
        recluster: Fraction = 0.15,
        prototype_momentum: Fold = 0.0,
        epsilon: Positive = 0.05,
        iterations: Count = 10,
        exclude_same_volume: bool = True,
        pairing: Literal["neighbours", "paper"] = "neighbours",
    ) -> None:
        super().__init__(backbone, samples)
        group = _groups(samples) if exclude_same_volume else np.arange(len(samples))
        if exclude_same_volume:
            require_other_volumes(replace(samples, volume=group), "exclude_same_volume takes neighbours", "set it to false")
        self.momentum, self.hidden_patches, self.patch = momentum, hidden_patches, patch
        self.uniformity, self.temperature = uniformity, temperature
        self.neighbours, self.neighbour_weight, self.neighbour_temperature = neighbours, neighbour_weight, neighbour_temperature
        self.memory_start, self.memory_ramp, self.recluster = memory_start, memory_ramp, recluster
        self.pairing, self.kinds = pairing, ("target", "prediction", "projection") if pairing == "paper" else ("target",)
        self.projector = perceptron([backbone.channels[-1], *projector], last_norm=True)
        self.predictor = perceptron([projector[-1], predictor_hidden, projector[-1]])
        self.teacher = momentum_copy(nn.ModuleList([self.backbone, self.projector]))
        self.memory = NeighbourMemory(
            torch.from_numpy(group),
            memory,
            projector[-1],
            kinds=len(self.kinds),
            clusters=clusters or max(2, min(200, memory // SAMPLES_PER_CLUSTER)),
            epsilon=epsilon,
            iterations=iterations,
            momentum=prototype_momentum,
        )
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        # what two samples may have in common, for the figures alone; the samples say it again after a restart
        label, place = of_label(samples), of_place(samples)
        self.width = SAME_PLACE if np.isnan(label).all() else 0.0
        self.register_buffer("known", torch.from_numpy(place if self.width else label), persistent=False)

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Hidden blocks and clusters are drawn for each seed."""
        self.seed.fill_(seed)

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        n, whole = len(views[0]), torch.cat(views)
        features = pooled(self.backbone(torch.cat(self.student_views(views, batch))))
        projected = self.projector(features)
        with torch.no_grad():
            target = self.teacher[1](pooled(self.teacher[0](whole)))
        found = {"projection": projected, "prediction": self.predictor(projected), "target": target}
        # sample first: (n, views, d)
        outputs = {name: normalised(value).view(2, n, -1).transpose(0, 1) for name, value in found.items()}
        return outputs | health_outputs(features.view(2, n, -1), projected.view(2, n, -1))

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        prediction, target, projection = (outputs[name] for name in ("prediction", "target", "projection"))
        agree = (prediction * target.flip(1)).sum(2)
        counted = spread = torch.ones_like(agree, dtype=torch.bool)
        parts: dict[str, float | Tensor] = {}
        if weight := self.weight_now():
            rows = batch.rows[:, None].expand(-1, 2)
            looked_up = self.memory.nearest(target.flatten(0, 1), rows.flatten(), self.neighbours)
            near, cosine = (found.unflatten(0, (-1, 2)) for found in looked_up)
            there, stored = cosine > -torch.inf, self.memory.embeddings[near]
            parts = self._figures_of(rows, near, there)
            if self.pairing == "neighbours":
                some = there.any(2, keepdim=True)
                share = torch.where(some, cosine / self.neighbour_temperature, 0).softmax(2)
                weighed = weight * some[..., 0].to(agree)
                mean = (share[..., None] * stored[..., 0, :]).sum(2)
                agree = (agree + weighed * (prediction * mean).sum(2)) / (1 + weighed)
            else:
                of_target, of_prediction, of_projection = stored.unbind(3)
                agree = torch.cat([agree[..., None], (of_prediction * of_target.flip(1)).sum(3)], 2)
                counted = torch.cat([counted[..., None], there & there.flip(1)], 2)
                projection = torch.cat([projection, of_projection.transpose(1, 2).flatten(0, 1)])
                spread = torch.cat([spread, there.transpose(1, 2).flatten(0, 1)])
        uniformity = uniformity_of_pairs(projection, spread, temperature=self.temperature)
        return Loss(self.uniformity * uniformity - mean_of_chosen(agree, counted), parts)

    def after_step(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch, progress: float) -> None:
        """Move the teacher; its rows of the batch enter the memory, which is clustered when it is time."""
        follow(self.teacher, nn.ModuleList([self.backbone, self.projector]), cosine_momentum(self.momentum, progress))
        new = gather(torch.stack([outputs[kind] for kind in self.kinds], 2)).flatten(0, 1)
        before = self.clusterings(self.progress, self.step * len(new))
        after = self.clusterings(progress, (self.step + 1) * len(new))
        self.memory.enter(new, gather(batch.rows).repeat_interleave(2), self.step, clustered=before > 0)
        if after > before:
            self.memory.make_clusters(KMEANS_ITERATIONS, int(self.seed), ("beclr", after))

    def figures(self) -> dict[str, float]:
        """Share of the clusters that have members, and of the memory that is filled."""
        return self.memory.figures()

    def student_views(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> list[Float[Tensor, "n c ..."]]:
        """The views with hidden blocks, drawn by seed, epoch, view and sample."""
        if self.hidden_patches is None:
            return views
        streams = [key(int(self.seed), "hidden", batch.epoch, number) for number in range(len(views))]
        return [
            hide_blocks(view, self.patch_of(view.shape[2:]), self.hidden_patches, stream, batch.keys)
            for view, stream in zip(views, streams, strict=True)
        ]

    def patch_of(self, size: Sequence[int]) -> int:
        """The side of the patches of a view of this size."""
        return side_of_patch(self.patch, size)

    def weight_now(self) -> float:
        """The weight of the neighbours in this step."""
        past = self.progress - self.memory_start
        if past < 0:
            return 0.0
        return self.neighbour_weight * (min(1.0, past / self.memory_ramp) if self.memory_ramp else 1.0)

    def clusterings(self, progress: float, entered: int) -> int:
        """How many clusterings there have been once so many rows have entered: none before the memory is used, nor of fewer rows
        than clusters.
        """
        if progress < self.memory_start or entered < len(self.memory.prototypes):
            return 0
        return 1 + int((progress - self.memory_start) / self.recluster)

    def _figures_of(
        self, rows: Int64[Tensor, "n 2"], near: Int64[Tensor, "n 2 k"], there: Bool[Tensor, "n 2 k"]
    ) -> dict[str, float | Tensor]:
        """Share of the neighbours that were found, and of these the share with the same label, or place if no label is known."""
        apart = (self.known[rows][..., None] - self.known[self.memory.rows[near]]).abs()
        asked = there & ~apart.isnan()
        pure = averaged((asked & (apart <= self.width)).double().mean()) / averaged(asked.double().mean()).clamp_min(1e-12)
        return {"neighbours_found": averaged(there.double().mean()), "neighbour_purity": pure}


def _groups(samples: Samples) -> Int64[np.ndarray, "n"]:
    """The number of each sample's volume; an image of a set has its own."""
    alone = np.array([volume.kind == "images" for volume in samples.volumes])[samples.volume]
    return np.where(alone, len(samples.volumes) + np.arange(len(samples)), samples.volume).astype(np.int64)
