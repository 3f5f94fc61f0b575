"""DINO: a student sees small and large crops, and predicts what its running mean, the teacher, assigns to the large ones.

Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", arXiv 2104.14294, algorithm 1.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medssl.core.bounds import Count, Fraction, Momentum, Part, Positive, Rising, Several, Whole
from medssl.nn.backbone import Backbone, pooled, wide
from medssl.nn.clustering import sinkhorn, usage
from medssl.nn.gather import gather, normalised, rank
from medssl.nn.loading import Batch, Samples
from medssl.nn.momentum import cosine_momentum, follow_weights, momentum_copy
from medssl.nn.spread import koleo
from medssl.nn.views import Crop
from medssl.pretrain.multi_crop import multi_crop, pooled_views
from medssl.pretrain.objective import Loss, Objective, health_outputs, require_other_volumes

TITLE = "DINO"
SOURCE = "Caron et al., ICCV 2021, arXiv 2104.14294"
EMA_OPTION = "momentum"
SAMPLES_PER_PROTOTYPE = 8


class DINO(Objective):
    """The teacher's assignment of a large crop to prototypes is the target of all other crops. The teacher is the encoder.

    Assignments are sharp, by a low temperature, and spread over the prototypes: by Sinkhorn's iteration, or by a running mean of
    the teacher's scores that is subtracted. Both are over the batch of all ranks. The teacher normalises with the statistics of
    its own batches. `large_scale` replaces the study's `views.scale`.

    Options:
        prototypes: learned directions of unit length; an eighth of the samples if that is fewer.
        hidden: width of the two hidden layers of the head, a perceptron on the mean of the deepest map.
        bottleneck: width of the head's last layer, whose unit output is compared with the prototypes.
        centring: how the teacher's assignments are spread over the prototypes: `sinkhorn`, or `centre`, a running mean.
        iterations: of Sinkhorn's algorithm.
        centre_momentum: share of itself that the running mean of scores keeps at each step.
        temperature: of the student's softmax; lower is sharper.
        teacher_temperature: of the teacher, at the start and after `warmup_frac_of_temperature` of the run.
        warmup_frac_of_temperature: share of the run in which the teacher's temperature rises.
        momentum: share of itself that the teacher keeps at each step; it grows to 1 along half a cosine.
        freeze_prototypes_frac: share of the run in which the prototypes stay fixed.
        koleo_weight: weight of a term that spreads the features of the large crops, each away from its nearest neighbour
            in another volume; 0 turns it off.
        large_scale: smallest and largest share of the image's area that the two large crops show, instead of
            `views.scale`.
        small_crops: additional crops of each image, which only the student sees.
        small_size_frac: their size, as a share of `size`.
        small_scale: smallest and largest share of the image's area that they show.
    """

    centre: Float[Tensor, "prototypes"]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        prototypes: Several = 4096,
        hidden: Count = 2048,
        bottleneck: Count = 256,
        centring: Literal["sinkhorn", "centre"] = "sinkhorn",
        iterations: Count = 3,
        centre_momentum: Momentum = 0.9,
        temperature: Positive = 0.1,
        teacher_temperature: Rising = (0.04, 0.07),
        warmup_frac_of_temperature: Part = 0.3,
        momentum: Momentum = 0.996,
        freeze_prototypes_frac: Part = 0.01,
        koleo_weight: Part = 0.0,
        large_scale: Rising = (0.32, 1.0),
        small_crops: Whole = 6,
        small_size_frac: Fraction = 0.43,
        small_scale: Rising = (0.05, 0.32),
    ) -> None:
        super().__init__(backbone, samples)
        if koleo_weight:
            require_other_volumes(samples, "koleo_weight takes neighbours", "set it to 0")
        self.centring, self.iterations, self.centre_momentum = centring, iterations, centre_momentum
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.warmup_frac_of_temperature, self.momentum = warmup_frac_of_temperature, momentum
        self.freeze_prototypes_frac, self.koleo_weight = freeze_prototypes_frac, koleo_weight
        self.large_scale, self.small_scale = large_scale, small_scale
        self.small_crops, self.small_size_frac = small_crops, small_size_frac
        count = max(2, min(prototypes, len(samples) // SAMPLES_PER_PROTOTYPE))
        self.head = Head(backbone.channels[-1], hidden, bottleneck, count)
        self.teacher = momentum_copy(nn.ModuleList([self.backbone, self.head]))
        self.register_buffer("centre", torch.zeros(count))

    def crops(self, size: tuple[int, ...]) -> list[Crop]:
        small = (self.small_crops, self.small_size_frac, self.small_scale)
        return multi_crop(size, self.large_scale, *small, self.backbone.multiple)

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        n = len(views[0])
        features = pooled_views(self.backbone, views)
        scores, embeddings = self.head(features)
        with torch.no_grad():
            wanted, _ = self.teacher[1](pooled(self.teacher[0](torch.cat(views[:2]))))
        features, embeddings = features.view(len(views), n, -1), embeddings.view(len(views), n, -1)
        # sample first: (n, views, …)
        return {
            "scores": scores.view(len(views), n, -1).transpose(0, 1),
            "wanted": wanted.view(2, n, -1).transpose(0, 1),
            **({"features": features[:2].transpose(0, 1)} if self.koleo_weight else {}),
            **health_outputs(features, embeddings),
        }

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        log_student = F.log_softmax(outputs["scores"] / self.temperature, dim=2)
        targets = self._targets(outputs["wanted"])
        num_views = log_student.shape[1]
        terms = [
            -(targets[:, large, None] * log_student[:, [view for view in range(num_views) if view != large]]).sum(2).mean()
            for large in range(2)
        ]
        total = torch.stack(terms).mean()
        parts = {
            "prototype_usage": usage(targets.argmax(2).flatten(), targets.shape[2]),
            "target_entropy": -torch.special.xlogy(targets, targets).sum(2).mean(),
        }
        if self.koleo_weight:
            spread = torch.stack([koleo(outputs["features"][:, view], batch.volume) for view in range(2)]).mean()
            total, parts = total + self.koleo_weight * spread, parts | {"koleo": spread.detach()}
        return Loss(total, parts)

    def after_backward(self, step: int) -> None:
        """Prototypes stay fixed during the first steps."""
        if self.progress < self.freeze_prototypes_frac:
            self.head.prototypes.grad = None

    def after_step(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch, progress: float) -> None:
        """Move the teacher's weights towards the student's, and the centre towards the batch's mean score."""
        follow_weights(self.teacher, nn.ModuleList([self.backbone, self.head]), cosine_momentum(self.momentum, progress))
        self.centre.lerp_(gather(outputs["wanted"]).flatten(0, 1).mean(0).to(self.centre), 1 - self.centre_momentum)

    def encoder(self) -> Backbone:
        """The teacher's backbone."""
        return cast("Backbone", self.teacher[0])

    @torch.no_grad()
    def _targets(self, scores: Float[Tensor, "n 2 k"]) -> Float[Tensor, "n 2 k"]:
        """The teacher's assignments of this rank's large crops."""
        low, high = self.teacher_temperature
        risen = min(1.0, self.progress / self.warmup_frac_of_temperature) if self.warmup_frac_of_temperature else 1.0
        temperature = low + (high - low) * risen
        if self.centring == "centre":
            return F.softmax((scores - self.centre.to(scores)) / temperature, dim=2)
        n = len(scores)
        everyone = sinkhorn(gather(scores).flatten(0, 1), epsilon=temperature, iterations=self.iterations)
        return everyone.view(-1, *scores.shape[1:])[rank() * n : (rank() + 1) * n]


class Head(nn.Module):
    """Features to scores against prototypes: three layers with GELU between them, unit length, then unit directions.

    Source: Caron et al., arXiv 2104.14294, appendix C ("Projection head"), with the norm of weight normalisation fixed at 1.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n e"]]:
        """(scores between −1 and 1, unit embeddings)."""
        embeddings = normalised(self.layers(features))
        return wide(F.linear(embeddings, normalised(self.prototypes).to(embeddings))), embeddings
