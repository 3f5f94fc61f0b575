"""Pre-training as a user of lightly writes it: its heads and losses round our backbone, one view after another, AdamW, eager.

Each loop follows the example of lightly's documentation; temperatures, momenta and the widths of heads are our defaults.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.nn.backbone import Backbone, pooled

NO_COUNTERPART = ("deepcluster_v2", "gsimclr")
"""Objectives that lightly does not have."""


class SimCLR(nn.Module):
    """NT-Xent over two views."""

    def __init__(self, backbone: Backbone) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules.heads import SimCLRProjectionHead

        super().__init__()
        self.backbone = backbone
        self.head = SimCLRProjectionHead(backbone.channels[-1], 2048, 128)
        self.criterion = NTXentLoss(temperature=0.1)

    def embedded(self, images: Tensor) -> Tensor:
        """`(n, 128)`."""
        return self.head(pooled(self.backbone(images)))

    def forward(self, views: list[Tensor]) -> Tensor:
        """The loss."""
        return self.criterion(self.embedded(views[0]), self.embedded(views[1]))


class MoCo(nn.Module):
    """NT-Xent against a memory bank of keys from a momentum network."""

    momentum = 0.999

    def __init__(self, backbone: Backbone) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules.heads import MoCoProjectionHead

        super().__init__()
        self.backbone = backbone
        self.head = MoCoProjectionHead(backbone.channels[-1], 2048, 128)
        self.slow_backbone, self.slow_head = _slow(self.backbone), _slow(self.head)
        self.criterion = NTXentLoss(temperature=0.2, memory_bank_size=(65536, 128))

    def forward(self, views: list[Tensor]) -> Tensor:
        """The loss; the momentum network follows first."""
        from lightly.models.utils import update_momentum

        update_momentum(self.backbone, self.slow_backbone, m=self.momentum)
        update_momentum(self.head, self.slow_head, m=self.momentum)
        query = self.head(pooled(self.backbone(views[0])))
        with torch.no_grad():
            key = self.slow_head(pooled(self.slow_backbone(views[1])))
        return self.criterion(query, key)


class BYOL(nn.Module):
    """Each view's prediction of what a momentum network says of the other."""

    momentum = 0.996

    def __init__(self, backbone: Backbone) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead

        super().__init__()
        self.backbone = backbone
        self.head, self.predictor = BYOLProjectionHead(backbone.channels[-1], 4096, 256), BYOLPredictionHead(256, 4096, 256)
        self.slow_backbone, self.slow_head = _slow(self.backbone), _slow(self.head)
        self.criterion = NegativeCosineSimilarity()

    def predicted(self, images: Tensor) -> Tensor:
        """`(n, 256)`."""
        return self.predictor(self.head(pooled(self.backbone(images))))

    def target(self, images: Tensor) -> Tensor:
        """`(n, 256)` without gradient."""
        with torch.no_grad():
            return self.slow_head(pooled(self.slow_backbone(images)))

    def forward(self, views: list[Tensor]) -> Tensor:
        """The loss; the momentum network follows first."""
        from lightly.models.utils import update_momentum

        update_momentum(self.backbone, self.slow_backbone, m=self.momentum)
        update_momentum(self.head, self.slow_head, m=self.momentum)
        a, b = views
        prediction_a, target_a = self.predicted(a), self.target(a)
        prediction_b, target_b = self.predicted(b), self.target(b)
        return 0.5 * (self.criterion(prediction_a, target_b) + self.criterion(prediction_b, target_a))


class SwAV(nn.Module):
    """Codes of two large crops, told from all other crops."""

    def __init__(self, backbone: Backbone) -> None:
        from lightly.loss import SwaVLoss
        from lightly.models.modules.heads import SwaVProjectionHead, SwaVPrototypes

        super().__init__()
        self.backbone = backbone
        self.head = SwaVProjectionHead(backbone.channels[-1], 2048, 128)
        self.prototypes = SwaVPrototypes(128, 500)
        self.criterion = SwaVLoss()

    def scores(self, images: Tensor) -> Tensor:
        """`(n, 500)`."""
        return self.prototypes(F.normalize(self.head(pooled(self.backbone(images))), dim=1))

    def forward(self, views: list[Tensor]) -> Tensor:
        """The loss; prototypes go to unit length first."""
        self.prototypes.normalize()
        scores = [self.scores(view) for view in views]
        return self.criterion(scores[:2], scores[2:])


LOOPS: dict[str, type[nn.Module]] = {"simclr": SimCLR, "moco": MoCo, "byol": BYOL, "swav": SwAV}


def plain_step(objective: str, backbone: Backbone, views: list[Tensor], precision: str) -> Callable[[], None]:
    """What does one step on ready views: forward, backward, optimiser, and what the objective moves."""
    device = views[0].device
    model = LOOPS[objective](backbone).to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    views = [view.contiguous() for view in views]

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(views)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _slow(module: nn.Module) -> nn.Module:
    """A copy that takes no gradient."""
    from lightly.models.utils import deactivate_requires_grad

    copied = copy.deepcopy(module)
    deactivate_requires_grad(copied)
    return copied
