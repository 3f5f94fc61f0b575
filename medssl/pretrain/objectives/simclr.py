"""SimCLR: two views of an image attract each other, all other images repel.

Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", arXiv 2002.05709.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from medssl.core.bounds import Positive, Whole, Widths
from medssl.nn.backbone import Backbone, pooled, wide
from medssl.nn.contrast import nt_xent
from medssl.nn.gather import normalised
from medssl.nn.heads import perceptron
from medssl.nn.loading import Batch, Samples
from medssl.nn.whitening import shuffled_group_whitening
from medssl.pretrain.objective import Loss, Objective, health_outputs, require_other_volumes

TITLE = "SimCLR"
SOURCE = "Chen et al., ICML 2020, arXiv 2002.05709"
ON_PICTURES = {"exclude_same_volume": False}


class SimCLR(Objective):
    """NT-Xent over two views. `exclude_same_volume` excludes neighbouring slices from the negatives.

    Options:
        temperature: of the softmax; lower is sharper.
        projector: widths of the layers of the projector, a perceptron on the mean of the deepest map; the last is the
            embedding's.
        exclude_same_volume: whether slices of the same volume are excluded from the negatives.
        whitening_groups: groups of the backbone's features that are whitened over the batch before the projector, drawn
            for each step and view; 0 turns whitening off.
        projector_norm: batch norm in the projector: in its `hidden` layers, after `all` of them, or `none`.
    """

    views_separately = False
    """Whether each view is its own batch for batch norm, or all of them together are."""

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        temperature: Positive = 0.1,
        projector: Widths = (2048, 128),
        exclude_same_volume: bool = False,
        whitening_groups: Whole = 0,
        projector_norm: Literal["hidden", "all", "none"] = "hidden",
    ) -> None:
        super().__init__(backbone, samples)
        if exclude_same_volume:
            require_other_volumes(samples, "exclude_same_volume takes negatives", "set it to false")
        self.temperature, self.exclude_same_volume = temperature, exclude_same_volume
        self.whitening_groups = whitening_groups
        widths = [backbone.channels[-1], *projector]
        self.projector = perceptron(widths, norm=projector_norm != "none", last_norm=projector_norm == "all")

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        passes = views if self.views_separately else [torch.cat(views)]
        features = torch.cat([pooled(self.backbone(images)) for images in passes]).view(2, len(views[0]), -1)
        inputs = torch.stack([self._whitened(view, number) for number, view in enumerate(features)])
        z = torch.cat([wide(self.projector(rows)) for rows in (inputs if self.views_separately else [inputs.flatten(0, 1)])])
        a, b = z.view(2, len(views[0]), -1)
        return {"z_a": a, "z_b": b, **health_outputs(features, [a, b])}

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        a, b = outputs["z_a"], outputs["z_b"]
        volume = batch.volume if self.exclude_same_volume else None
        return Loss(nt_xent(normalised(a), normalised(b), temperature=self.temperature, volume=volume))

    def _whitened(self, features: Tensor, view: int) -> Tensor:
        if not self.whitening_groups:
            return features
        return shuffled_group_whitening(features, self.whitening_groups, step=self.step, view=view)
