"""BYOL: one network predicts the output of another, which follows it slowly, for another view; there are no negatives.

Source: Grill et al., "Bootstrap your own latent", arXiv 2006.07733, algorithm 1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medssl.core.bounds import Count, Momentum, Widths
from medssl.nn.backbone import Backbone, pooled
from medssl.nn.gather import normalised
from medssl.nn.heads import perceptron
from medssl.nn.loading import Batch, Samples
from medssl.nn.momentum import cosine_momentum, follow, momentum_copy
from medssl.pretrain.objective import Loss, Objective, health_outputs

TITLE = "BYOL"
SOURCE = "Grill et al., NeurIPS 2020, arXiv 2006.07733"


class BYOL(Objective):
    """Symmetric prediction; the target's parameters and running statistics follow with a momentum that grows to 1 at the end.

    Options:
        projector: widths of the layers of the projector, a perceptron on the mean of the deepest map; the last is the
            embedding's.
        predictor_hidden: width of the hidden layer of the predictor.
        momentum: share of itself that the target network keeps at each step; it grows to 1 along half a cosine.
    """

    contrasts = False

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        projector: Widths = (4096, 256),
        predictor_hidden: Count = 4096,
        momentum: Momentum = 0.996,
    ) -> None:
        super().__init__(backbone, samples)
        self.momentum = momentum
        self.projector = perceptron([backbone.channels[-1], *projector])
        self.predictor = perceptron([projector[-1], predictor_hidden, projector[-1]])
        self.target = momentum_copy(nn.ModuleList([self.backbone, self.projector]))

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        # one view at a time, as in algorithm 1: each is its own batch for batch norm
        features = [pooled(self.backbone(view)) for view in views]
        projected = [self.projector(feature) for feature in features]
        prediction_a, prediction_b = (normalised(self.predictor(z)) for z in projected)
        with torch.no_grad():
            target_a, target_b = (normalised(self.target[1](pooled(self.target[0](view)))) for view in views)
        return {
            "prediction_a": prediction_a,
            "prediction_b": prediction_b,
            "target_a": target_a,
            "target_b": target_b,
            **health_outputs(features, projected),
        }

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        agree = (outputs["prediction_a"] * outputs["target_b"]).sum(1) + (outputs["prediction_b"] * outputs["target_a"]).sum(1)
        return Loss((4 - 2 * agree).mean())

    def after_step(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch, progress: float) -> None:
        """Move the target towards the online network."""
        follow(self.target, nn.ModuleList([self.backbone, self.projector]), cosine_momentum(self.momentum, progress))

    def figures(self) -> dict[str, float]:
        """Distance of the target from the online network, relative to the size of the weights."""
        pairs = list(zip(self.target[0].parameters(), self.backbone.parameters(), strict=True))
        apart = sum((a - b).detach().square().sum().item() for a, b in pairs)
        return {"target_distance": (apart / sum(b.detach().square().sum().item() for _, b in pairs)) ** 0.5}
