"""LeJEPA: all views of an image agree, and the embeddings of the batch are spread like an isotropic Gaussian.

Source: Balestriero and LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics", arXiv 2511.08544.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from medssl.core.bounds import Count, Fold, Fraction, Rising, Several, Whole, Widths
from medssl.nn.backbone import Backbone, pooled, wide
from medssl.nn.gaussianity import directions_of_step, expected_of_gaussian, sigreg
from medssl.nn.heads import perceptron
from medssl.nn.loading import Batch, Samples
from medssl.pretrain.multi_crop import LARGE, MultiCropStudent
from medssl.pretrain.objective import Loss, health_outputs

TITLE = "LeJEPA"
SOURCE = "Balestriero and LeCun, preprint 2025, arXiv 2511.08544"
SMALL_BATCH = (128, "its Gaussian statistic grows with the batch, and of few images it is mostly noise. Raise batch_size")
NEEDS_WITH = {"drop_path": ("HAS_BRANCHES", "there are no residual branches to skip")}
"""Options that, above 0, need a backbone whose file declares the first word, and why."""


class LeJEPA(MultiCropStudent):
    """No teacher, queue, prototypes or negatives: the Gaussian keeps the embeddings from collapsing.

    Each view's embeddings are a sample of their own for the statistic, over the batch of all ranks. It grows with the batch, and
    with it the meaning of `weight`: keep the batch at 128 images or more. `large_scale` replaces the study's `views.scale`.

    Options:
        projector: widths of the layers of the projector, a perceptron on the mean of the deepest map; the last is the
            embedding's.
        weight: share of the Gaussian's term in the loss; agreement of the views has the rest.
        directions: random directions, new in each step, along which the embeddings are compared with a Gaussian.
        knots: points at which characteristic functions are compared, from 0 to 3.
        large_scale: smallest and largest share of the image's area that the two large crops show, instead of
            `views.scale`.
        small_crops: additional crops of each image.
        small_size_frac: their size, as a share of `size`.
        small_scale: smallest and largest share of the image's area that they show.
        drop_path: share of crops for which the last residual branch is skipped in each step (stochastic depth); it grows
            from 0 at the first branch. The paper's transformers have 0.1.
    """

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        projector: Widths = (2048, 2048, 128),
        weight: Fraction = 0.05,
        directions: Count = 1024,
        knots: Several = 17,
        large_scale: Rising = (0.3, 1.0),
        small_crops: Whole = 6,
        small_size_frac: Fraction = 0.43,
        small_scale: Rising = (0.05, 0.3),
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
        self.weight, self.directions, self.knots = weight, directions, knots
        self.projector = perceptron([backbone.channels[-1], *projector])

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        sizes = (range(LARGE), range(LARGE, len(views)))
        features = torch.cat([pooled(self.maps(views, numbers, batch)) for numbers in sizes if numbers])
        z = wide(self.projector(features)).view(len(views), len(views[0]), -1)
        return {"z": z.transpose(0, 1), **health_outputs(features.view(*z.shape[:2], -1), z)}

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        z = outputs["z"].transpose(0, 1)
        centre = z[:LARGE].mean(0)
        disagreement = (z - centre).square().mean()
        directions = directions_of_step(self.step, z.shape[-1], self.directions, z)
        spread = torch.stack([sigreg(view, directions, knots=self.knots) for view in z]).mean()
        value = (1 - self.weight) * disagreement + self.weight * spread
        return Loss(value, {"disagreement": disagreement.detach(), "sigreg": spread.detach()})

    def figures(self) -> dict[str, float]:
        """The floor of `sigreg`: its expectation for embeddings that are a Gaussian sample."""
        return {"sigreg_floor": expected_of_gaussian(self.knots)}
