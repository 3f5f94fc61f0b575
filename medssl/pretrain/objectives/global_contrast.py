"""Contrast with the order of the body: slices of the same part are not negatives, and across volumes they are positives.

Source: Chaitanya et al., "Contrastive learning of global and local features for medical image segmentation with limited
annotations", NeurIPS 2020, arXiv 2006.10511, §3.1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from medssl.core.bounds import Positive, Several, Widths
from medssl.core.rng import rng
from medssl.nn.backbone import Backbone, pooled, wide
from medssl.nn.contrast import nt_xent
from medssl.nn.gather import gather, normalised, rank
from medssl.nn.heads import perceptron
from medssl.nn.loading import Batch, Samples
from medssl.nn.views import Crop
from medssl.pretrain.objective import Loss, Objective, health_outputs, require_other_volumes
from medssl.pretrain.partitions import next_in_partition, partition_batches, partitions_of

TITLE = "global contrast"
SOURCE = "Chaitanya et al., NeurIPS 2020, arXiv 2006.10511"
ON_PICTURES = {"variant": "gr"}


class GlobalContrast(Objective):
    """Which slices attract each other, one positive at a time.

    Options:
        variant: which slices attract each other. `gr`: two views of a slice; everything else repels (SimCLR). `gd_minus`: a
            slice and two views of it; only slices of other partitions repel. `gd`: a slice and a view of it, and each of them
            with its counterpart from a slice of the same partition in the next volume.
        partitions: parts that each volume is cut into along its slices; a batch has equally many slices of each.
        partition_by: whether the cuts are equal shares of a volume's slices (`index`), or of the whole cohort in scanner
            millimetres (`position_mm`).
        temperature: of the softmax; lower is sharper.
        projector: widths of the layers of the projector, a perceptron on the mean of the deepest map; the last is the
            embedding's.
    """

    partition: Int64[Tensor, "samples"]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        variant: Literal["gr", "gd_minus", "gd"] = "gd",
        partitions: Several = 4,
        partition_by: Literal["index", "position_mm"] = "index",
        temperature: Positive = 0.1,
        projector: Widths = (1024, 128),
    ) -> None:
        super().__init__(backbone, samples)
        self.variant, self.partitions, self.temperature = variant, partitions, temperature
        self.projector = perceptron([backbone.channels[-1], *projector], norm=False)
        if variant == "gd":
            require_other_volumes(samples, "variant gd takes positives", "take another variant")
        self.volume = samples.volume
        found = np.zeros(len(samples), dtype=np.int64) if variant == "gr" else partitions_of(samples, partitions, partition_by)
        self.register_buffer("partition", torch.from_numpy(found), persistent=False)

    def crops(self, size: tuple[int, ...]) -> list[Crop]:
        """Two views; `gd_minus` and `gd` also use the slice itself."""
        if self.variant == "gr":
            return [Crop(2, size)]
        return [Crop(1, size, varies="nothing"), Crop(2 if self.variant == "gd_minus" else 1, size)]

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[Int64[np.ndarray, "_"]]:
        """Equally many slices of each partition; `gr` has no partitions and shuffles.

        Raises:
            StudyError: the batch size does not fit the partitions.
        """
        if self.variant == "gr":
            return super().batches(seed, epoch, batch_size)
        random = rng(seed, "partitions", epoch)
        partition, least = self.partition.cpu().numpy(), 2 if self.variant == "gd" else 1
        return partition_batches(self.volume, partition, self.partitions, batch_size, random, least=least)

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        n = len(views[0])
        features = pooled(self.backbone(torch.cat(views)))
        z = wide(self.projector(features))
        return {f"z_{number}": part for number, part in enumerate(z.split(n))} | health_outputs(features.split(n), z.split(n))

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        z = [normalised(outputs[f"z_{number}"]) for number in range(3 if self.variant == "gd_minus" else 2)]
        if self.variant == "gr":
            return Loss(nt_xent(z[0], z[1], temperature=self.temperature))
        return Loss(partition_contrast(torch.stack(z), self.partition[batch.rows], self.temperature, across=self.variant == "gd"))


def partition_contrast(
    z: Float[Tensor, "copies n d"], partition: Int64[Tensor, "n"], temperature: float, *, across: bool
) -> Float[Tensor, ""]:
    """Mean over local anchors and their positives of −log(e^s⁺ / (e^s⁺ + Σ e^s⁻)), with s = cosine / temperature.

    One positive of anchor `z[c, i]` at a time: the other copies of i. With `across` as many come from other volumes: the same
    copy
    of the next place of its partition in the batch (a ring), and of the one before, which is that pair's other direction.
    Negatives: all copies of all places of other partitions.

    Args:
        z: unit rows `(copies, n, d)` of this process.
        partition: of each place, `(n,)`.
        temperature: of the softmax.
        across: whether volumes attract each other.

    Source: arXiv 2006.10511, eqs. 1 to 3; per pair of neighbours G^D has eight terms there, half of them across volumes.
    """
    copies, n = z.shape[:2]
    everyone, partitions = torch.stack([gather(copy) for copy in z]), gather(partition)
    logits = torch.einsum("cnd,kmd->cnkm", z, everyone) / temperature
    same = partition[:, None] == partitions[None, :]
    repelled = logits.masked_fill(same[None, :, None, :], float("-inf")).flatten(2).logsumexp(2)
    place = torch.arange(n, device=z.device)
    own = place + rank() * n

    def pull(here: int, there: int, to: Tensor) -> Tensor:
        return F.softplus(repelled[here] - logits[here, place, there, to])

    within = torch.stack([pull(here, there, own) for here in range(copies) for there in range(copies) if here != there]).mean()
    if not across:
        return within
    following = next_in_partition(partitions)
    before = torch.empty_like(following).scatter(0, following, torch.arange(len(following), device=z.device))
    neighbours = (following[own], before[own])
    # a slice that is the only one of its partition has no neighbour
    between = torch.stack([pull(here, here, to) * (to != own) for here in range(copies) for to in neighbours]).mean()
    return (within + between) / 2
