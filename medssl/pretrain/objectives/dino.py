"""DINO: a student sees small and large crops, and predicts what its running mean, the teacher, assigns to the large ones.

Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", arXiv 2104.14294, algorithm 1; the patch term:
Zhou et al., "iBOT", arXiv 2111.07832, §3.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medssl.core.bounds import Count, Fold, Fraction, Momentum, Part, Positive, Rising, Several, Weight, Whole
from medssl.nn.backbone import Backbone, pooled, wide
from medssl.nn.clustering import sinkhorn, usage
from medssl.nn.gather import gather, normalised, rank, summed
from medssl.nn.loading import Batch, Samples
from medssl.nn.momentum import cosine_momentum, follow_weights, momentum_copy
from medssl.nn.spread import koleo
from medssl.pretrain.hidden_patches import HiddenPatches, draw_hidden_patches
from medssl.pretrain.multi_crop import LARGE, MultiCropStudent
from medssl.pretrain.objective import Loss, fewer_prototypes, health_outputs, require_other_volumes

TITLE = "DINO"
SOURCE = "Caron et al., ICCV 2021, arXiv 2104.14294"
ON_PICTURES = {"koleo_weight": 0}
EMA_OPTION = "momentum"
NEEDS_WITH = {
    "patch_weight": ("TAKES_MASKS", "convolutions would mix hidden patches with their neighbours"),
    "drop_path": ("HAS_BRANCHES", "there are no residual branches to skip"),
}
"""Options that, above 0, need a backbone whose file declares the first word, and why."""
SAMPLES_PER_PROTOTYPE = 8


class DINO(MultiCropStudent):
    """The teacher's assignment of a large crop to prototypes is the target of all other crops. The teacher is the encoder.

    Assignments are sharp, by a low temperature, and spread over the prototypes: by Sinkhorn's iteration, or by a running mean of
    the teacher's scores that is subtracted. Both are over the batch of all ranks. The teacher normalises with the statistics of
    its own batches. `large_scale` replaces the study's `views.scale`.

    The patch term (iBOT) hides blocks of patches in one of the two large crops that the student gets of each image. It predicts
    the teacher's assignments of these patches, which have prototypes and a running mean of scores of their own.

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
        patch_weight: weight of the patch term; 0 turns it off, 1 is the papers'. Recommended from 100,000 slices on.
        hidden_patches: smallest and largest share of the patches of a large crop that its mask hides.
        drop_path: share of crops for which the student skips the last residual branch in each step (stochastic depth); it
            grows from 0 at the first branch. The papers' transformers have 0.1 to 0.3.
    """

    centre: Float[Tensor, "prototypes"]
    patch_centre: Float[Tensor, "prototypes"]

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
        momentum: Fold = 0.996,
        freeze_prototypes_frac: Part = 0.01,
        koleo_weight: Part = 0.0,
        large_scale: Rising = (0.32, 1.0),
        small_crops: Whole = 6,
        small_size_frac: Fraction = 0.43,
        small_scale: Rising = (0.05, 0.32),
        patch_weight: Weight = 0.0,
        hidden_patches: Rising = (0.1, 0.5),
        drop_path: Fold = 0.0,
    ) -> None:
        super().__init__(
            backbone,
            samples,
            large_scale=large_scale,
            small_crops=small_crops,
            small_size_frac=small_size_frac,
            small_scale=small_scale,
            drop_path=drop_path,
        )
        if koleo_weight:
            require_other_volumes(samples, "koleo_weight takes neighbours", "set it to 0")
        self.centring, self.iterations, self.centre_momentum = centring, iterations, centre_momentum
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.warmup_frac_of_temperature, self.momentum = warmup_frac_of_temperature, momentum
        self.freeze_prototypes_frac, self.koleo_weight = freeze_prototypes_frac, koleo_weight
        self.patch_weight, self.hidden_share, self.sees_whole_batch = patch_weight, hidden_patches, patch_weight > 0
        count = max(2, min(prototypes, len(samples) // SAMPLES_PER_PROTOTYPE))
        self.fewer = fewer_prototypes(prototypes, count, SAMPLES_PER_PROTOTYPE, len(samples))
        self.head = Head(backbone.channels[-1], hidden, bottleneck, count)
        self.register_buffer("centre", torch.zeros(count))
        if patch_weight:
            self.map_of_patches = (backbone.skips or (-1,))[-1]
            self.patch_head = Head(backbone.channels[self.map_of_patches], hidden, bottleneck, count)
            self.token = nn.Parameter(0.02 * torch.randn(backbone.channels[0]))
            self.register_buffer("patch_centre", torch.zeros(count))
        self.teacher = momentum_copy(self._followed())

    def remarks(self) -> list[str]:
        return self.fewer

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        n, large, small = len(views[0]), range(LARGE), range(LARGE, len(views))
        hidden = self.hidden(views[0], batch) if self.patch_weight else None
        options: dict[str, Any] = {} if hidden is None else {"hidden": hidden.of_crops, "token": self.token}
        maps = self.maps(views, large, batch, **options)
        features = torch.cat([pooled(maps), *([pooled(self.maps(views, small, batch))] if small else [])])
        scores, embeddings = self.head(features)
        with torch.no_grad():
            of_teacher = self.teacher[0](torch.cat(views[:LARGE]))
            wanted, _ = self.teacher[1](pooled(of_teacher))
        features, embeddings = features.view(len(views), n, -1), embeddings.view(len(views), n, -1)
        # sample first: (n, views, …)
        return {
            "scores": scores.view(len(views), n, -1).transpose(0, 1),
            "wanted": wanted.view(LARGE, n, -1).transpose(0, 1),
            **({"features": features[:LARGE].transpose(0, 1)} if self.koleo_weight else {}),
            **({} if hidden is None else self._patches(maps, of_teacher, hidden)),
            **health_outputs(features, embeddings),
        }

    def hidden(self, images: Float[Tensor, "n c *size"], batch: Batch) -> HiddenPatches:
        """The patches of large crops that the student does not see."""
        grid = [side // self.backbone.strides[0] for side in images.shape[2:]]
        return draw_hidden_patches(grid, self.hidden_share, batch, int(self.seed))

    def _patches(self, maps: list[Tensor], of_teacher: list[Tensor], hidden: HiddenPatches) -> dict[str, Tensor]:
        """Scores of hidden patches, the student's and the teacher's, `(n, most, prototypes)`, and which of them count."""
        tokens, wanted = (hidden.tokens(wide(made[self.map_of_patches])) for made in (maps, of_teacher))
        scores, _ = self.patch_head(tokens.flatten(0, 1))
        with torch.no_grad():
            of_teacher_head, _ = self.teacher[2](wanted.flatten(0, 1))
        shape = tokens.shape[:2]
        return {
            "patch_scores": scores.unflatten(0, shape),
            "patch_wanted": of_teacher_head.unflatten(0, shape),
            "counted": hidden.counted,
        }

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        log_student = F.log_softmax(outputs["scores"] / self.temperature, dim=2)
        targets = self._targets(outputs["wanted"])
        num_views = log_student.shape[1]
        terms = [
            -(targets[:, large, None] * log_student[:, [view for view in range(num_views) if view != large]]).sum(2).mean()
            for large in range(LARGE)
        ]
        total = torch.stack(terms).mean()
        parts = {
            "prototype_usage": usage(targets.argmax(2).flatten(), targets.shape[2]),
            "target_entropy": -torch.special.xlogy(targets, targets).sum(2).mean(),
        }
        if self.koleo_weight:
            spread = torch.stack([koleo(outputs["features"][:, view], batch.volume) for view in range(LARGE)]).mean()
            total, parts = total + self.koleo_weight * spread, parts | {"koleo": spread.detach()}
        if self.patch_weight:
            of_patches = self._patch_loss(outputs)
            total, parts = total + self.patch_weight * of_patches, parts | {"patch_loss": of_patches.detach()}
        return Loss(total, parts)

    def _patch_loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]]) -> Float[Tensor, ""]:
        """Cross-entropy of the hidden patches: the mean inside each image, then over images."""
        wanted = (outputs["patch_wanted"] - self.patch_centre.to(outputs["patch_wanted"])) / self._temperature_of_teacher()
        log_student = F.log_softmax(outputs["patch_scores"] / self.temperature, dim=2)
        each, counted = -(F.softmax(wanted, dim=2) * log_student).sum(2), outputs["counted"]
        return ((each * counted).sum(1) / counted.sum(1)).mean()

    def after_backward(self, step: int) -> None:
        """Prototypes stay fixed during the first steps."""
        if self.progress < self.freeze_prototypes_frac:
            for head in (self.head, *([self.patch_head] if self.patch_weight else [])):
                head.prototypes.grad = None

    def after_step(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch, progress: float) -> None:
        """Move the teacher's weights towards the student's, and the centres towards the batch's mean scores."""
        follow_weights(self.teacher, self._followed(), cosine_momentum(self.momentum, progress))
        self.centre.lerp_(gather(outputs["wanted"]).flatten(0, 1).mean(0).to(self.centre), 1 - self.centre_momentum)
        if self.patch_weight:
            counted = outputs["counted"][:, :, None].to(outputs["patch_wanted"])
            mean = summed((outputs["patch_wanted"] * counted).sum((0, 1))) / summed(counted.sum())
            self.patch_centre.lerp_(mean.to(self.patch_centre), 1 - self.centre_momentum)

    def encoder(self) -> Backbone:
        """The teacher's backbone."""
        return cast("Backbone", self.teacher[0])

    @torch.no_grad()
    def _targets(self, scores: Float[Tensor, "n 2 k"]) -> Float[Tensor, "n 2 k"]:
        """The teacher's assignments of this rank's large crops."""
        temperature = self._temperature_of_teacher()
        if self.centring == "centre":
            return F.softmax((scores - self.centre.to(scores)) / temperature, dim=2)
        n = len(scores)
        everyone = sinkhorn(gather(scores).flatten(0, 1), epsilon=temperature, iterations=self.iterations)
        return everyone.view(-1, *scores.shape[1:])[rank() * n : (rank() + 1) * n]

    def _temperature_of_teacher(self) -> float:
        low, high = self.teacher_temperature
        risen = min(1.0, self.progress / self.warmup_frac_of_temperature) if self.warmup_frac_of_temperature else 1.0
        return low + (high - low) * risen

    def _followed(self) -> nn.ModuleList:
        """What the teacher is a running mean of."""
        return nn.ModuleList([self.backbone, self.head, *([self.patch_head] if self.patch_weight else [])])


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
