"""DeepCluster-v2: every epoch the stored embeddings are clustered, and the network learns to predict the clusters.

Source: Caron et al., arXiv 2006.09882, §4.1 and appendix C (DeepCluster-v2); Caron et al., arXiv 1807.05520.
"""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor

from medssl.core.bounds import Count, Fraction, Positive, Rising, Several, Whole, Widths
from medssl.nn.backbone import Backbone
from medssl.nn.clustering import ClusterMemory
from medssl.nn.gather import normalised
from medssl.nn.heads import perceptron
from medssl.nn.loading import Batch, Samples
from medssl.nn.views import Crop
from medssl.pretrain.multi_crop import multi_crop, pooled_views
from medssl.pretrain.objective import Loss, Objective, fewer_prototypes, health_outputs

TITLE = "DeepCluster-v2"
SOURCE = "Caron et al., NeurIPS 2020, arXiv 2006.09882"
SAMPLES_PER_PROTOTYPE = 4


class DeepClusterV2(Objective):
    """A memory of two embeddings per sample, by global sample number; centroids of spherical k-means are the classifier.

    Each epoch makes `heads` clusterings of `prototypes` clusters, or of a quarter of the samples if that is fewer; head h
    clusters the memory of view h mod 2.

    Options:
        prototypes: clusters of each clustering; a quarter of the samples if that is fewer.
        heads: clusterings per epoch, each with its own prototypes.
        projector: widths of the layers of the projector, a perceptron on the mean of the deepest map; the last is the
            embedding's.
        temperature: of the softmax; lower is sharper.
        iterations: of spherical k-means.
        small_crops: additional crops of each image, which predict the cluster but are not stored.
        small_size_frac: their size, as a share of `size`.
        small_scale: smallest and largest share of the image's area that they show.
    """

    contrasts = False
    memory_pass = True

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        prototypes: Several = 500,
        heads: Count = 3,
        projector: Widths = (2048, 128),
        temperature: Positive = 0.1,
        iterations: Count = 10,
        small_crops: Whole = 0,
        small_size_frac: Fraction = 0.43,
        small_scale: Rising = (0.05, 0.14),
    ) -> None:
        super().__init__(backbone, samples)
        self.small_crops, self.small_size_frac, self.small_scale = small_crops, small_size_frac, small_scale
        self.projector = perceptron([backbone.channels[-1], *projector])
        count = max(2, min(prototypes, len(samples) // SAMPLES_PER_PROTOTYPE))
        self.fewer = fewer_prototypes(prototypes, count, SAMPLES_PER_PROTOTYPE, len(samples))
        self.clusters = ClusterMemory(
            len(samples),
            projector[-1],
            clusters=count,
            heads=heads,
            temperature=temperature,
            iterations=iterations,
        )

    def crops(self, size: tuple[int, ...]) -> list[Crop]:
        small = (self.small_crops, self.small_size_frac, self.small_scale)
        return multi_crop(size, None, *small, self.backbone.multiple)

    def remarks(self) -> list[str]:
        return self.fewer

    def start_epoch(self, epoch: int, seed: int) -> None:
        self.clusters.start_epoch(epoch, seed)

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        n = len(views[0])
        features = pooled_views(self.backbone, views)
        z = normalised(self.projector(features)).view(len(views), n, -1)
        return {"z": z.transpose(0, 1), **health_outputs(features.view(len(views), n, -1), z)}

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        return Loss(self.clusters.loss(outputs["z"], batch.rows))

    def after_step(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch, progress: float) -> None:
        """Store the batch's embeddings in the memory."""
        self.clusters.remember(outputs["z"], batch.rows)

    def figures(self) -> dict[str, float]:
        return self.clusters.figures()
