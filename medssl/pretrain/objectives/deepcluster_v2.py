"""DeepCluster-v2: every epoch the remembered embeddings are clustered, and the network learns to tell the clusters.

Source: Caron et al., arXiv 2006.09882, §4.1 and appendix C (DeepCluster-v2); Caron et al., arXiv 1807.05520.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.nn.backbone import Backbone, pooled
from medssl.nn.clustering import spherical_kmeans
from medssl.nn.gather import from_first, gather, normalised
from medssl.nn.heads import perceptron
from medssl.nn.loading import Batch, Samples
from medssl.nn.views import Crop
from medssl.pretrain.objective import Loss, Objective, looked_at

IGNORED = -100


class DeepClusterV2(Objective):
    """A memory of two embeddings per sample, by global sample number; centroids of spherical k-means are the classifier.

    `heads` clusterings are made each epoch, of `prototypes` clusters or a quarter of the samples where they are fewer; head h
    clusters the memory of view h mod 2.
    """

    contrasts = False
    memory_pass = True

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        prototypes: int = 500,
        heads: int = 3,
        projector: tuple[int, ...] = (2048, 128),
        temperature: float = 0.1,
        iterations: int = 10,
        small_crops: int = 0,
        small_size_frac: float = 0.43,
        small_scale: tuple[float, float] = (0.05, 0.14),
    ) -> None:
        super().__init__(backbone, samples)
        self.temperature, self.iterations = temperature, iterations
        self.small_crops, self.small_size_frac, self.small_scale = small_crops, small_size_frac, small_scale
        self.clusters = max(2, min(prototypes, len(samples) // 4))
        self.projector = perceptron([backbone.channels[-1], *projector])
        self.register_buffer("memory", torch.zeros(2, len(samples), projector[-1]))
        self.register_buffer("known", torch.zeros(len(samples), dtype=torch.bool))
        self.register_buffer("assignment", torch.full((heads, len(samples)), IGNORED))
        self.register_buffer("centroids", torch.zeros(heads, self.clusters, projector[-1]))

    def crops(self, size: tuple[int, ...]) -> list[Crop]:
        small = tuple(max(8, math.ceil(s * self.small_size_frac)) for s in size)
        few = [Crop(self.small_crops, small, self.small_scale)] if self.small_crops else []
        return [Crop(2, size), *few]

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Cluster the memory; samples that it does not know yet get no target."""
        known = torch.nonzero(self.known)[:, 0]
        for head in range(len(self.centroids)):
            centroids, assignment = spherical_kmeans(
                self.memory[head % 2, known], self.clusters, iterations=self.iterations, seed=seed, names=(epoch, head)
            )
            self.centroids[head] = from_first(centroids)
            self.assignment[head] = IGNORED
            self.assignment[head, known] = from_first(assignment)

    def forward(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        n = len(views[0])
        features = torch.cat([pooled(self.backbone(torch.cat(group))) for group in (views[:2], views[2:]) if group])
        z = normalised(self.projector(features)).view(len(views), n, -1)
        return {"z": z.transpose(0, 1), **looked_at(features.view(len(views), n, -1), z)}

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Loss:
        z = outputs["z"]
        scores = torch.einsum("nvd,hkd->nvhk", z, self.centroids) / self.temperature
        target = self.assignment[:, batch.rows].T[:, None, :].expand(scores.shape[:3])
        known = (target != IGNORED).sum().clamp_min(1)
        total = F.cross_entropy(scores.flatten(0, 2), target.flatten(), ignore_index=IGNORED, reduction="sum")
        return Loss(total / known)

    def after_step(self, outputs: dict[str, Tensor], batch: Batch, progress: float) -> None:
        """The batch's embeddings take their places in the memory."""
        rows, z = gather(batch.rows), gather(outputs["z"][:, :2])
        self.memory[:, rows] = z.transpose(0, 1)
        self.known[rows] = True

    def figures(self) -> dict[str, float]:
        """Share of clusters that have members, mean over heads, and size of the largest as a share of the samples."""
        sizes = torch.stack([torch.bincount(a[a >= 0], minlength=self.clusters) for a in self.assignment]).float()
        return {
            "prototype_usage": (sizes > 0).float().mean().item(),
            "largest_cluster": (sizes.max() / sizes.sum(1).max().clamp_min(1)).item(),
        }
