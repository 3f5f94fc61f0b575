"""Contrast between regions of the decoder's map: a place resembles itself in another view, and differs from its neighbours.

Source: Chaitanya et al., "Contrastive learning of global and local features for medical image segmentation with limited
annotations", NeurIPS 2020, arXiv 2006.10511, §3.2.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from medssl.core.bounds import Count, Positive, Several
from medssl.core.errors import StudyError
from medssl.core.rng import rng
from medssl.nn.backbone import Backbone, pooled, wide
from medssl.nn.decoder import Decoder
from medssl.nn.gather import gather, rank
from medssl.nn.loading import Batch, Samples
from medssl.nn.views import Crop
from medssl.pretrain.objective import Loss, Objective, health_outputs, require_other_volumes
from medssl.pretrain.partitions import next_in_partition, partition_batches, partitions_of
from medssl.pretrain.regions import NUM_NEGATIVES, Regions, corners_of

TITLE = "local contrast"
SOURCE = "Chaitanya et al., NeurIPS 2020, arXiv 2006.10511"
ON_PICTURES = {"variant": "lr"}
REFUSES = {"ONE_RESOLUTION": "a decoder goes over maps that get finer. Take a ResNet, ConvNeXt, U-Net or residual encoder"}
"""Literals of a backbone's file with which it does not go, and the reason."""
PARTS = {"decoder": {"encoder": "own", "places": {"decoder": "decoder"}, "required": False}}
"""The decoder initialises that of a segmentation."""


class LocalContrast(Objective):
    """Trains the first blocks of a decoder over a frozen encoder; views differ only in intensity, so that places correspond.

    Options:
        variant: which places attract each other. `lr`: equal places of two views of a slice, from either view. `ld`: also those
            of slices of the same partition in the next two volumes; only the first view has anchors, and their three positives
            are in the second view and in those of the others.
        blocks: of the decoder that are trained, starting with the deepest.
        region: side of a region in places of the decoder's map.
        partitions: parts that each volume is cut into along its slices, for `ld`; a batch has equally many slices of
            each.
        partition_by: whether the cuts are equal shares of a volume's slices (`index`), or of the whole cohort in scanner
            millimetres (`position_mm`).
        temperature: of the softmax; lower is sharper.
        projector: channels at each place after the decoder, and width of a region's embedding.
    """

    partition: Int64[Tensor, "samples"]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        variant: Literal["lr", "ld"] = "lr",
        blocks: Count = 3,
        region: Count = 3,
        partitions: Several = 4,
        partition_by: Literal["index", "position_mm"] = "index",
        temperature: Positive = 0.1,
        projector: tuple[Count, Count] = (64, 128),
    ) -> None:
        super().__init__(backbone, samples)
        self.variant, self.region, self.partitions, self.temperature = variant, region, partitions, temperature
        self.contrasts = variant == "ld"  # the terms of L^R stay within an image
        if backbone.one_resolution:
            raise StudyError(
                "local_contrast trains the first levels of a decoder, over maps that get finer; those of "
                f"{type(backbone).__name__} all have one resolution. Take a ResNet, ConvNeXt, U-Net or residual encoder."
            )
        backbone.requires_grad_(False).eval()
        self.decoder = Decoder(backbone, blocks=blocks)
        dims, hidden = backbone.spatial_dims, projector[0]
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.pointwise = nn.Sequential(
            convolution(self.decoder.width, hidden, 1, bias=False), norm(hidden), nn.ReLU(), convolution(hidden, hidden, 1)
        )
        # a region of one place is its own embedding
        self.join = nn.Linear(hidden * region**dims, projector[1], bias=False) if region > 1 else nn.Identity()
        if variant == "ld":
            require_other_volumes(samples, "variant ld takes positives", "take another variant")
        self.volume = samples.volume
        found = np.zeros(len(samples), dtype=np.int64) if variant == "lr" else partitions_of(samples, partitions, partition_by)
        self.register_buffer("partition", torch.from_numpy(found), persistent=False)

    def train(self, mode: bool = True) -> LocalContrast:
        """The encoder stays unchanged, including its statistics."""
        super().train(mode)
        self.backbone.eval()
        return self

    def parts(self) -> dict[str, nn.Module]:
        """The decoder, for segmentation."""
        return {"decoder": self.decoder}

    def crops(self, size: tuple[int, ...]) -> list[Crop]:
        """Two views of the whole slice."""
        return [Crop(2, size, varies="intensity")]

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[Int64[np.ndarray, "_"]]:
        """`ld`: equally many slices of each partition.

        Raises:
            StudyError: the batch size does not fit the partitions.
        """
        if self.variant == "lr":
            return super().batches(seed, epoch, batch_size)
        random = rng(seed, "partitions", epoch)
        partition, least = self.partition.cpu().numpy(), 2 if self.variant == "ld" else 1
        return partition_batches(self.volume, partition, self.partitions, batch_size, random, least=least)

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        n, images = len(views[0]), torch.cat(views)
        with torch.no_grad():
            maps = self.backbone(images)
        z = F.normalize(self.embedded(self.pointwise(self.decoder(images, maps))), dim=-1)
        return {"z_a": z[:n], "z_b": z[n:], **health_outputs(pooled(maps).split(n), z.mean(1).split(n))}

    def embedded(self, x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n nodes d"]:
        """The map `(n, c, *size)` to the embedding of each node of the lattice, `(n, nodes, d)`."""
        corners = corners_of(tuple(x.shape[2:]), self.region)
        cut = [x[(slice(None), slice(None), *(slice(at, at + self.region) for at in corner))].flatten(1) for corner in corners]
        return wide(self.join(torch.stack(cut, dim=1)))

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        a, b, nodes = outputs["z_a"], outputs["z_b"], Regions.of(self.backbone.spatial_dims)
        if self.variant == "ld":
            nodes = nodes.with_negatives(NUM_NEGATIVES - 1)
        terms = [region_contrast(a, b, nodes, self.temperature).mean()]
        if self.variant == "lr":
            terms.append(region_contrast(b, a, nodes, self.temperature).mean())
            return Loss(torch.stack(terms).mean())
        everyone, following = gather(a), next_in_partition(gather(self.partition[batch.rows]))
        own = torch.arange(len(a), device=a.device) + rank() * len(a)
        for other in (following[own], following[following[own]]):
            alone = (other == own)[:, None]
            terms.append((region_contrast(a, everyone[other], nodes, self.temperature) * ~alone).mean())
        return Loss(torch.stack(terms).mean())


def region_contrast(
    a: Float[Tensor, "n nodes d"], b: Float[Tensor, "n nodes d"], nodes: Regions, temperature: float
) -> Float[Tensor, "n places"]:
    """−log(e^s⁺ / (e^s⁺ + Σ e^s⁻)) of each image and place, `(n, places)`; s = cosine / temperature.

    `a`, `b`: unit embeddings `(n, nodes, d)` of the lattice in two maps. The anchor is a place of `a`, its positive that place of
    `b`, its negatives the place's neighbours in both.

    Source: arXiv 2006.10511, eq. 4.
    """
    places = nodes.places.to(a.device)
    negatives = nodes.negatives.to(a.device)
    anchor = a[:, places]
    attracted = (anchor * b[:, places]).sum(-1) / temperature
    others = torch.cat([a[:, negatives], b[:, negatives]], dim=2)
    repelled = torch.einsum("npd,npmd->npm", anchor, others) / temperature
    return F.softplus(repelled.logsumexp(-1) - attracted)
