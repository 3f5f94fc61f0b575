"""SepCLR: one space for what healthy and diseased share, another for what only the diseased have.

Source: Louiset, Duchesnay, Grigis, Gori, "Separating common from salient patterns with contrastive representation learning",
ICLR 2024, arXiv 2402.11928.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from medssl.core.bounds import Count, Positive, Weight, Widths
from medssl.core.errors import StudyError
from medssl.core.rng import rng
from medssl.nn.backbone import Backbone, pooled, wide
from medssl.nn.gather import gather, normalised
from medssl.nn.heads import perceptron
from medssl.nn.loading import Batch, Samples
from medssl.nn.separation import align, joint_entropy, uniformity
from medssl.pretrain.objective import Loss, Objective, health_outputs

TITLE = "SepCLR"
SOURCE = "Louiset et al., ICLR 2024, arXiv 2402.11928"
LABEL_OPTION = "background"
"""If this option names no source, label files of the cohort's sources are inputs of its runs: new labels mean a new training."""

PARTS = {
    "common_code": {
        "encoder": "common",
        "places": {"encoder": "inner", "common_code": "code"},
        "backbone": "bottleneck",
        "inner": "of",
        "options": {"width": "width"},
    },
    "salient_code": {
        "encoder": "salient",
        "places": {"salient": "inner", "salient_code": "code"},
        "backbone": "bottleneck",
        "inner": "of",
        "options": {"width": "width"},
    },
    "salient": {
        "encoder": "salient",
        "places": {"salient": "inner", "salient_code": "code"},
        "backbone": "bottleneck",
        "inner": "of",
        "options": {"width": "width"},
    },
}
"""Each code follows its encoder: `encoder: common` uses the main encoder, `encoder: salient` the second."""


class SepCLR(Objective):
    """Two encoders, each with a linear code and a projector; half of each batch is background (healthy), half target.

    `background` names the label, or the source, of the healthy pool; all other samples are targets. Common space: both views of
    an
    image are close, all images spread over the sphere. Salient space: the same for targets in a Euclidean space in which the
    background has one place, 0 (`infoless_weight` keeps it there). `joint_weight` increases the joint entropy of both, so that
    neither space predicts the other.

    Options:
        background: the label, or the source, of the healthy pool.
        width: of the common and of the salient code.
        projector: widths of the layers of the projector after each code; the last is the embedding's.
        temperature: of the kernel by which embeddings attract and repel; lower is sharper.
        salient_weight: weight of the loss of the salient space.
        infoless_weight: weight of the loss that keeps the background at 0 in the salient space.
        joint_weight: weight of the loss that keeps one space from predicting the other.
    """

    is_target: Bool[Tensor, "samples"]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        background: str = "healthy",
        width: Count = 32,
        projector: Widths = (128, 32),
        temperature: Positive = 0.5,
        salient_weight: Weight = 1.0,
        infoless_weight: Weight = 10.0,
        joint_weight: Weight = 10.0,
    ) -> None:
        super().__init__(backbone, samples)
        self.temperature = temperature
        self.salient_weight, self.infoless_weight, self.joint_weight = salient_weight, infoless_weight, joint_weight
        sources = [samples.volumes[v].source for v in samples.volume]
        healthy = [background in pair for pair in zip(samples.label, sources, strict=True)]
        self.pools = np.flatnonzero(healthy), np.flatnonzero(~np.array(healthy))
        if not all(len(pool) for pool in self.pools):
            names = sorted({str(name) for name in (*samples.label, *sources) if name})
            raise StudyError(
                f"sepclr: {len(self.pools[0])} of {len(samples)} samples are of the background {background!r}; it needs some, "
                "and others. Set background to the label or the source of the healthy pool; there are "
                f"{', '.join(names) or 'none'}."
            )
        self.register_buffer("is_target", ~torch.tensor(healthy), persistent=False)
        self.salient = copy.deepcopy(backbone)
        self.common_code, self.salient_code = (nn.Linear(backbone.channels[-1], width) for _ in range(2))
        self.common_projector, self.salient_projector = (perceptron([width, *projector]) for _ in range(2))

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[Int64[np.ndarray, "_"]]:
        """Background and targets alternate; the smaller pool repeats more often.

        Raises:
            StudyError: half a batch is more than a pool.
        """
        shares, count = (batch_size // 2, batch_size - batch_size // 2), self.num_samples // batch_size
        rows = []
        for name, pool, share in zip(("background", "target"), self.pools, shares, strict=True):
            if len(pool) < share:
                raise StudyError(f"sepclr: the {name} pool has {len(pool)} samples, half a batch is {share}. Lower batch_size.")
            rows.append(np.resize(rng(seed, name, epoch).permutation(pool), (count, share)))
        order = np.argsort([*range(0, 2 * shares[0], 2), *range(1, 2 * shares[1], 2)], kind="stable")
        return list(np.concatenate(rows, axis=1)[:, order])

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        # one view at a time, as in the paper's code: each is its own batch for batch norm
        features = [pooled(self.backbone(view)) for view in views]
        common = [normalised(self.common_projector(self.common_code(feature))) for feature in features]
        salient = [wide(self.salient_projector(self.salient_code(pooled(self.salient(view))))) for view in views]
        return {"common": torch.stack(common, 1), "salient": torch.stack(salient, 1), **health_outputs(features, common)}

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        """The loss of the whole batch, the same on every rank."""
        c, s, target = gather(outputs["common"]), gather(outputs["salient"]), gather(self.is_target[batch.rows])
        t = self.temperature
        still = s * target[:, None, None]  # the background's salient place is 0
        views = range(2)
        common = align(c[:, 0], c[:, 1], temperature=t) + sum(uniformity(c[:, v], temperature=t) for v in views)
        salient = align(s[target, 0], s[target, 1], temperature=t) + sum(uniformity(still[:, v], temperature=t) for v in views)
        infoless = torch.stack([align(s[~target, v], 0.0, temperature=t) for v in views]).mean()
        joint = torch.stack([joint_entropy(c[:, v], still[:, v], temperature=t) for v in views]).mean()
        total = common + self.salient_weight * salient + self.infoless_weight * infoless + self.joint_weight * joint
        parts = {"common_loss": common, "salient_loss": salient, "infoless_loss": infoless, "joint_entropy_loss": joint}
        return Loss(total, {name: value.detach() for name, value in parts.items()})

    def parts(self) -> dict[str, nn.Module]:
        return {"salient": self.salient, "common_code": self.common_code, "salient_code": self.salient_code}
