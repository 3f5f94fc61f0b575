"""A head on the pooled features of whole images: frozen features, outputs, and training. Tasks add a loss and a score."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from medssl.finetune import training
from medssl.finetune.attention_pool import AttentionPool
from medssl.finetune.cases import Cases
from medssl.finetune.gating import add_gates
from medssl.finetune.images import CaseImages
from medssl.finetune.mixup import mixup
from medssl.finetune.task import Setup
from medssl.finetune.training import Trained
from medssl.nn.backbone import Backbone, last_pooled
from medssl.nn.layout import laid_out, lay_out
from medssl.nn.views import Crop, Views

PREDICT_BATCH = 128


LOOP_MODE = {"attentive": "frozen", "full": "full", "gradual": "gradual", "lora": "lora"}
"""The mode of the loop for each mode that is trained in steps."""


class ImageHead(nn.Module):
    """A backbone, what pools its maps, one linear layer.

    Pooled is the mean of the last map, or of the last `blocks` side by side; in mode `attentive` by attention.
    """

    def __init__(self, backbone: Backbone, num_outputs: int, *, mode: str = "full", blocks: int = 1) -> None:
        super().__init__()
        self.backbone, self.blocks = backbone, blocks
        self.pool = AttentionPool(backbone) if mode == "attentive" else None
        self.head = nn.Linear(sum(backbone.channels[-blocks:]) if self.pool is None else self.pool.width, num_outputs)
        self.gates: nn.Module = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Outputs `(n, outputs)`, such as logits of classes."""
        maps = self.gates(self.backbone(images))
        return self.head(last_pooled(maps, self.blocks) if self.pool is None else self.pool(maps))

    @property
    def reads(self) -> tuple[int, ...]:
        """The numbers of the maps that the head reads."""
        return tuple(range(len(self.backbone.channels)))[-self.blocks :]

    def rescale(self, factor: float, shift: float) -> None:
        """Make outputs `factor * outputs + shift`, by the head's own weights."""
        with torch.no_grad():
            self.head.weight.mul_(factor)
            self.head.bias.mul_(factor).add_(shift)

    @classmethod
    def opened(cls, backbone: Backbone, num_outputs: int, contract: dict[str, Any], *, blocks: int) -> ImageHead:
        """The network of a model, whose contract says in which mode it was fitted; `blocks` are those of the probes."""
        mode = contract.get("fit", {}).get("mode", "full")
        return cls(backbone, num_outputs, mode=mode, blocks=1 if mode in LOOP_MODE else blocks)

    @classmethod
    def of(cls, backbone: Backbone, weight: np.ndarray, bias: np.ndarray, *, blocks: int = 1) -> ImageHead:
        """A copy of the backbone with a given layer: weight `(outputs, d)`, bias `(outputs,)`."""
        network = cls(copy.deepcopy(backbone), len(bias), blocks=blocks)
        with torch.no_grad():
            network.head.weight.copy_(torch.from_numpy(weight))
            network.head.bias.copy_(torch.from_numpy(bias))
        return network


@dataclass(frozen=True)
class Images:
    """Cases with their images, and the features of frozen backbones, each computed once."""

    cases: Cases
    images: CaseImages
    features: WeakKeyDictionary[nn.Module, np.ndarray] = field(default_factory=WeakKeyDictionary)

    @classmethod
    def read(cls, cases: Cases, images: CaseImages, aggregate: Literal["case", "volume", "unit"]) -> Images:
        """Labelled cases, of which predictions are of single ones, of volumes or of units.

        Raises:
            StudyError: the cases of a volume or unit differ in their label.
        """
        cases.require_one_label(aggregate)
        return cls(cases, images)

    @property
    def asked(self) -> np.ndarray:
        """Indices of the cases that a fit predicts: those of the validation part, then those of the test part."""
        return np.concatenate([self.cases.where("val"), self.cases.where("test")])


def frozen_features(data: Images, setup: Setup, *, blocks: int = 1) -> np.ndarray:
    """The frozen backbone's pooled features of every case, of its last `blocks` side by side, float32 `(n, d)`."""
    if setup.backbone not in data.features:
        network = lay_out(copy.deepcopy(setup.backbone), setup.device).eval()
        everything = np.arange(len(data.cases))
        data.features[setup.backbone] = _in_batches(
            data, everything, setup.device, lambda images: last_pooled(network(laid_out(images, network)), blocks)
        )
    return data.features[setup.backbone]


def outputs_of(network: nn.Module, data: Images, indices: np.ndarray, device: torch.device) -> np.ndarray:
    """A network's outputs for some cases, float64 `(n, outputs)`."""
    network.eval()
    return _in_batches(data, indices, device, lambda images: network(laid_out(images, network))).astype(np.float64)


def train_head(
    data: Images,
    setup: Setup,
    train: np.ndarray,
    targets: np.ndarray,
    *,
    num_outputs: int,
    num_steps: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    score: Callable[[np.ndarray], float],
    name: str,
    answers: int = 1,
) -> tuple[ImageHead, Trained]:
    """Train a head and, as the mode says, its backbone on the cases `train`.

    Args:
        data: all cases.
        setup: of the fit; its own `train` is not used.
        targets: of the cases `train`, float32 `(n, columns)`; the second argument of the loss.
        num_outputs: of the head.
        num_steps: optimiser steps.
        loss: of outputs `(n, outputs)` and targets `(n, columns)` of a batch.
        score: of the outputs of the validation cases `(v, outputs)`; higher is better.
        name: of the state of this training.
        answers: of a case, over which the loss is a mean.
    """
    cases, recipe, seed, device = data.cases, setup.recipe, setup.seed, setup.device
    with training.seeded(seed, "head"):
        network = ImageHead(copy.deepcopy(setup.backbone), num_outputs, mode=setup.mode)
    add_gates(network, recipe.bottleneck, seed, num_cases=len(train) * answers)
    lay_out(network, device, channels_last=recipe.channels_last)
    val = cases.where("val")
    wanted, place = torch.from_numpy(targets).to(device), torch.zeros(len(cases), dtype=torch.int64)
    place[torch.from_numpy(train)] = torch.arange(len(train))  # of each case among the training cases
    place = place.to(device)
    patient = torch.from_numpy(np.unique(cases.unit_id.astype(str), return_inverse=True)[1]).to(device)
    views, expected = None, data.images.expected
    if recipe.augment is not None:
        crop = Crop(1, expected.size, shows="whole")
        views = Views(recipe.augment, [crop], data.images.samples, seed=seed, slices_last=expected.cuts_slices)

    def batches(steps: Iterable[int]) -> Iterator[training.Inputs]:
        requests = ((step, train[training.order(len(train), recipe.batch_size, seed, step)]) for step in steps)
        for batch in data.images.batches(requests, device, data=setup.data, workers=setup.workers):
            batch.keys = np.arange(len(batch), dtype=np.uint64)  # by place: copies of a case change differently
            images = batch.seen if views is None else views(batch)[0]
            images, target = mixup(images, wanted[place[batch.rows]], recipe.mixup, seed, batch.epoch)
            yield laid_out(images, network), target, *(() if recipe.bottleneck is None else (patient[batch.rows],))

    trained = training.Fit(
        network,
        batches,
        loss,
        lambda network: score(outputs_of(network, data, val, device)),
        recipe,
        num_steps,
        seed=seed,
        mode=LOOP_MODE[setup.mode],
        choose=setup.chooses,
        saving=setup.saving(name),
        report=setup.report,
    ).run()
    return network, trained


def _in_batches(data: Images, indices: np.ndarray, device: torch.device, network: Callable[[Tensor], Tensor]) -> np.ndarray:
    parts = []
    with torch.inference_mode():
        for start in range(0, len(indices), PREDICT_BATCH):
            images = data.images(indices[start : start + PREDICT_BATCH]).to(device)
            parts.append(network(images).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 1), dtype=np.float32)
