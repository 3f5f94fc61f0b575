"""The nearest class by mean feature."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from medssl.core.bounds import Positive
from medssl.finetune.cases import Cases
from medssl.finetune.images import CaseImages
from medssl.finetune.labelled_data import new_images, read_images
from medssl.finetune.predictions import aggregated, rows_of
from medssl.finetune.recipe import Recipe
from medssl.finetune.task import Answer, FineTuned, Fitted, Mask, NetworkInput, Setup, Source
from medssl.nn.backbone import pooled

TITLE = "nearest mean"
MODES = ["means"]
DEFAULT_MODES = ["means"]
DEFAULT_STEPS = 10
PREDICTS = "classes"
TABLE = "means.tsv"


class Means(nn.Module):
    """A backbone, and the mean feature of each class."""

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.means = nn.Parameter(torch.zeros(num_classes, backbone.channels[-1]), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Minus the distance to each class, `(n, classes)`."""
        return -torch.cdist(pooled(self.backbone(images)), self.means)


@dataclass(frozen=True)
class Images:
    """Cases and their images."""

    cases: Cases
    images: CaseImages


class ClosestCentre:
    """The class whose mean feature is nearest.

    Options:
        sharpness: factor of the distances before the softmax.
    """

    def __init__(self, *, sharpness: Positive = 1.0) -> None:
        self.sharpness = sharpness

    def read(self, source: Source, expected: NetworkInput) -> Images:
        return Images(*read_images(source, expected, multilabel=False))

    def selection(self, data: Images) -> str | None:
        return None

    def num_steps(self, data: Images, mode: str, train: np.ndarray, recipe: Recipe) -> int | None:
        return None

    def fit(self, data: Images, setup: Setup) -> Fitted:
        network = self.network(copy.deepcopy(setup.backbone), self.contract(data)).eval()
        targets = torch.from_numpy(data.cases.targets[setup.train]).float()
        with torch.no_grad():
            features = pooled(network.backbone(data.images(setup.train)))
            network.means.copy_((targets.T @ features) / targets.sum(dim=0)[:, None])
        asked = np.concatenate([data.cases.where("val"), data.cases.where("test")])
        return Fitted(network, self._probabilities(network, data.images(asked)))

    def rows(self, data: Images, predicted: np.ndarray | None) -> pd.DataFrame:
        asked = np.concatenate([data.cases.where("val"), data.cases.where("test")])
        return aggregated(rows_of(data.cases, asked, predicted), "case")

    def references(self, data: Images) -> Iterator[Mask]:
        yield from ()

    def contract(self, data: Images) -> dict[str, Any]:
        return {"classes": data.cases.classes}

    def network(self, backbone: Any, contract: dict[str, Any]) -> nn.Module:
        return Means(backbone, len(contract["classes"]))

    def predict(self, model: FineTuned, source: Source) -> Iterator[Answer]:
        images = Images(*new_images(source, model.expected, model.contract["classes"]))
        everything = np.arange(len(images.cases))
        yield Answer(rows_of(images.cases, everything, self._probabilities(model.network, images.images(everything))))

    def _probabilities(self, network: nn.Module, images: Tensor) -> np.ndarray:
        with torch.no_grad():
            return (self.sharpness * network(images)).double().softmax(dim=1).numpy()
