"""Classification of images or whole volumes: linear probe, nearest neighbours, full fine-tuning, gradual unfreezing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.core.bounds import Count, Part, Whole
from medssl.finetune import probe, training
from medssl.finetune.augment import augment, draws
from medssl.finetune.cases import Cases
from medssl.finetune.mixup import mixup
from medssl.finetune.recipe import Recipe
from medssl.finetune.scoring import macro_auc
from medssl.finetune.self_training import self_trained
from medssl.nn.backbone import pooled
from medssl.nn.layout import laid_out, lay_out

MODES = ["linear", "knn", "full", "gradual"]
PREDICTS = "classes"
DEFAULT_MODES = ["linear", "full"]
MAIN_MODE = "full"
"""The mode that a reader asks about first."""
FROZEN_MODES = ["linear", "knn"]
"""Modes in which the encoder stays as it was."""
MODE_TITLES = {"full": "full fine-tuning", "linear": "linear probe", "knn": "nearest neighbours"}
"""Modes in words, where their own name is not."""
PREDICT_BATCH = 128


class Classifier(nn.Module):
    """A backbone, its deepest map averaged, one linear layer."""

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.channels[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(n, classes)`."""
        return self.head(pooled(self.backbone(images)))


@dataclass
class Fitted:
    """What a fit leaves: probabilities `(n, classes)` of the asked cases, the network if there is one, facts for fits.tsv."""

    probabilities: np.ndarray
    network: Classifier | None
    facts: dict[str, Any] = field(default_factory=dict)
    curve: list[tuple[int, float, float]] = field(default_factory=list)


class Classification:
    """Which class is an image (2-D encoders) or a volume (3-D encoders) of?"""

    selection = "macro AUC"

    def __init__(
        self,
        *,
        multilabel: bool = False,
        class_weights: bool = False,
        aggregate: Literal["case", "volume", "unit"] = "case",
        neighbours: Count = 20,
        self_training_rounds: Whole = 0,
        self_training_confidence: Part = 0.9,
    ) -> None:
        self.multilabel = multilabel
        self.class_weights = class_weights
        self.aggregate = aggregate
        self.neighbours = neighbours
        self.self_training_rounds = self_training_rounds
        self.self_training_confidence = self_training_confidence

    def network(self, backbone: nn.Module, num_classes: int) -> nn.Module:
        """The backbone with this task's head."""
        return Classifier(backbone, num_classes)

    def features(self, backbone: nn.Module, cases: Cases, device: torch.device) -> np.ndarray:
        """The frozen backbone's pooled features of every case, float32 `(n, d)`."""
        backbone = lay_out(copy.deepcopy(backbone), device).eval()
        return _in_batches(cases, np.arange(len(cases)), device, lambda images: pooled(backbone(laid_out(images, backbone))))

    def fit(
        self,
        mode: str,
        backbone: nn.Module,
        cases: Cases,
        train: np.ndarray,
        asked: np.ndarray,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        features: np.ndarray | None = None,
    ) -> Fitted:
        """Fit on the cases `train` and return probabilities of the cases `asked`.

        Args:
            mode: one of `modes`.
            backbone: with its starting weights; not changed.
            cases: all cases; those of split `val` choose the penalty or the step.
            train: indices of the labelled training cases.
            asked: indices of the cases to predict.
            recipe: see `Recipe`.
            seed: of order, augmentation and head.
            device: where the network runs.
            features: of every case, for `linear` and `knn`.
        """
        if mode in ("knn", "linear"):
            known = self.features(backbone, cases, device) if features is None else features
            return self._knn(cases, train, asked, known) if mode == "knn" else self._linear(backbone, cases, train, asked, known)
        targets = cases.targets[train].astype(np.float32)
        num_steps = recipe.steps(len(train))  # guesses are more cases and no more steps: a surer start trains no longer
        fitted = self._full(mode, backbone, cases, train, targets, num_steps, asked, recipe, seed, device)
        rest = np.setdiff1d(cases.where("train"), train)

        def guess(fitted: Fitted) -> tuple[tuple[np.ndarray, np.ndarray], int]:
            guesses = self.predict(fitted.network, cases, rest, device)
            sure = np.flatnonzero(self._sure(guesses))
            return (rest[sure], self._hardened(guesses[sure])), len(sure)

        def refit(guesses: tuple[np.ndarray, np.ndarray]) -> Fitted:
            more = np.concatenate([train, guesses[0]]), np.concatenate([targets, guesses[1]])
            return self._full(mode, backbone, cases, *more, num_steps, asked, recipe, seed, device)

        return self_trained(fitted, self.self_training_rounds, guess, refit)

    def _knn(self, cases: Cases, train: np.ndarray, asked: np.ndarray, features: np.ndarray) -> Fitted:
        known, val = (features[train], cases.targets[train]), cases.where("val")
        both = probe.nearest_neighbours(known, features[np.concatenate([asked, val])], neighbours=self.neighbours)
        return Fitted(both[: len(asked)], None, {"val_score": macro_auc(both[len(asked) :], cases.targets[val])})

    def _sure(self, guesses: np.ndarray) -> np.ndarray:
        """Which guesses `(n, classes)` are confident enough to be taken for labels."""
        confidence = np.maximum(guesses, 1 - guesses).min(axis=1) if self.multilabel else guesses.max(axis=1)
        return confidence >= self.self_training_confidence

    def _hardened(self, guesses: np.ndarray) -> np.ndarray:
        hard = guesses >= 0.5 if self.multilabel else guesses == guesses.max(axis=1, keepdims=True)
        return hard.astype(np.float32)

    def _linear(self, backbone: nn.Module, cases: Cases, train: np.ndarray, asked: np.ndarray, features: np.ndarray) -> Fitted:
        val = cases.where("val")
        found = probe.linear_probe(
            (features[train], cases.targets[train]),
            (features[val], cases.targets[val]),
            multilabel=self.multilabel,
            balanced=self.class_weights,
        )
        network = Classifier(copy.deepcopy(backbone), len(cases.classes))
        with torch.no_grad():
            network.head.weight.copy_(torch.from_numpy(found.weight))
            network.head.bias.copy_(torch.from_numpy(found.bias))
        probabilities = found.probabilities(features[asked], multilabel=self.multilabel)
        return Fitted(probabilities, network, {"val_score": found.score, "inverse_penalty": found.inverse_penalty})

    def _full(
        self,
        mode: str,
        backbone: nn.Module,
        cases: Cases,
        train: np.ndarray,
        targets: np.ndarray,
        num_steps: int,
        asked: np.ndarray,
        recipe: Recipe,
        seed: int,
        device: torch.device,
    ) -> Fitted:
        with training.seeded(seed, "head"):
            network = lay_out(Classifier(copy.deepcopy(backbone), len(cases.classes)), device)
        val = cases.where("val")
        wanted = torch.from_numpy(targets)

        def batch(step: int) -> tuple[Tensor, Tensor]:
            chosen = training.order(len(train), recipe.batch_size, seed, step)
            images, target = cases.images(train[chosen]).to(device), wanted[chosen].to(device)
            if recipe.augment:
                images = augment(images, draws(seed, step, len(chosen)), flips=recipe.flips)
            images, target = mixup(images, target, recipe.mixup, seed, step)
            return laid_out(images, network), target

        def score(network: nn.Module) -> float:
            return macro_auc(self.predict(network, cases, val, device), cases.targets[val]) if len(val) else float("nan")

        trained = training.fit(network, batch, self.loss(targets, device), score, recipe, num_steps, mode=mode)
        facts = {"val_score": trained.best_score, "best_step": trained.best_step, "steps": num_steps}
        return Fitted(self.predict(network, cases, asked, device), network, facts, trained.curve)

    def loss(self, targets: np.ndarray, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """Cross-entropy (one class a case) or binary cross-entropy (several), with the class weights of `targets`."""
        positive = torch.from_numpy(targets.sum(axis=0)).to(device)
        if self.multilabel:
            weight = ((len(targets) - positive) / positive.clamp(min=1)).clamp(0.05, 20) if self.class_weights else None
            return lambda logits, wanted: F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight)
        weight = len(targets) / (positive.clamp(min=1) * len(positive)) if self.class_weights else None
        return lambda logits, wanted: F.cross_entropy(logits, wanted, weight=weight)

    def predict(self, network: nn.Module, cases: Cases, indices: np.ndarray, device: torch.device) -> np.ndarray:
        """Class probabilities `(n, classes)` of some cases, float64."""
        network.eval()
        logits = _in_batches(cases, indices, device, lambda images: network(laid_out(images, network))).astype(np.float64)
        return probe.sigmoid(logits) if self.multilabel else probe.softmax(logits)


def _in_batches(cases: Cases, indices: np.ndarray, device: torch.device, network: Callable[[Tensor], Tensor]) -> np.ndarray:
    parts = []
    with torch.inference_mode():
        for start in range(0, len(indices), PREDICT_BATCH):
            images = cases.images(indices[start : start + PREDICT_BATCH]).to(device)
            parts.append(network(images).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, len(cases.classes)), dtype=np.float32)
