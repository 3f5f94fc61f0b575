"""Two views of an image have one mean feature."""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.core.bounds import Positive
from medssl.nn.backbone import Backbone, pooled
from medssl.nn.loading import Batch, Samples
from medssl.pretrain.objective import Loss, Objective, health_outputs

TITLE = "Equal means"
SOURCE = "the test of dropped plug-ins"


class EqualMeans(Objective):
    """The squared distance between the features of two views.

    Options:
        weight: factor of the loss.
    """

    contrasts = False

    def __init__(self, backbone: Backbone, samples: Samples, *, weight: Positive = 1.0) -> None:
        super().__init__(backbone, samples)
        self.weight = weight

    def forward(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        features = pooled(self.backbone(torch.cat(views))).view(2, len(batch), -1)
        return {"a": features[0], "b": features[1], **health_outputs(features, features)}

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Loss:
        return Loss(self.weight * (outputs["a"] - outputs["b"]).square().mean())
