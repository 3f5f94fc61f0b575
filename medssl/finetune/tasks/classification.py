"""Classification of images or whole volumes: probes of the frozen backbone, and fine-tuning of all or part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.artefacts.predictions import PROBABILITY
from medssl.core.bounds import Count, Part, Whole
from medssl.core.label_table import MANY
from medssl.finetune import probe, scoring
from medssl.finetune.labelled_data import new_images, read_images
from medssl.finetune.predictions import aggregated, rows_of
from medssl.finetune.recipe import Recipe
from medssl.finetune.self_training import self_trained
from medssl.finetune.task import Answer, FineTuned, Fitted, Mask, NetworkInput, Setup, Source
from medssl.finetune.whole_images import LOOP_MODE, ImageHead, Images, frozen_features, outputs_of, train_head
from medssl.nn.backbone import Backbone

TITLE = "classification"
MODES = ["linear", "knn", "attentive", "full", "gradual", "lora"]
DEFAULT_MODES = ["linear", "full"]
PREDICTS = "classes"
TABLE = "probabilities.tsv"
MAIN_MODE = "full"
"""The mode that the report puts first."""
FROZEN_MODES = ["linear", "knn", "attentive"]
"""Modes in which the encoder stays frozen."""
MODE_TITLES = {
    "full": "full fine-tuning",
    "linear": "linear probe",
    "knn": "nearest neighbours",
    "attentive": "attentive probe",
    "lora": "LoRA",
}
"""Modes in words, if their own name is not enough."""
MODE_NEEDS = {"lora": ("HAS_ATTENTION", "it adapts the matrices of attention")}
"""For modes that not every backbone can have, the literal of a backbone's file that allows it, and the reason."""
DEFAULT_STEPS = 1000
"""Steps of a fit by default."""


class Classification:
    """Assigns classes to images (2-D encoders) or volumes (3-D encoders).

    Options:
        multilabel: a case may have several classes, joined by `|` in the labels, or none.
        class_weights: weight the classes in the loss inversely to their frequency.
        aggregate: the unit of a prediction: the `case` (image or slice), or the mean over the cases of a `volume` or a `unit`
            (patient).
        blocks: for modes `linear` and `knn`, how many of the last blocks give features, each the mean of its map; a class token
            that the backbone pools counts as one.
        neighbours: for mode `knn`, how many of the nearest training cases vote.
        self_training_rounds: rounds in which predictions for training cases without a label become labels; not for the probes.
        self_training_confidence: smallest probability of a prediction that becomes a label, 0…1.
    """

    def __init__(
        self,
        *,
        multilabel: bool = False,
        class_weights: bool = False,
        aggregate: Literal["case", "volume", "unit"] = "case",
        blocks: Count = 1,
        neighbours: Count = 20,
        self_training_rounds: Whole = 0,
        self_training_confidence: Part = 0.9,
    ) -> None:
        self.multilabel = multilabel
        self.class_weights = class_weights
        self.aggregate = aggregate
        self.blocks = blocks
        self.neighbours = neighbours
        self.self_training_rounds = self_training_rounds
        self.self_training_confidence = self_training_confidence

    def read(self, source: Source, expected: NetworkInput) -> Images:
        """The images that have a class."""
        return Images.read(*read_images(source, expected, multilabel=self.multilabel), self.aggregate)

    def selection(self, data: Images) -> str | None:
        """Macro AUC, if the validation cases have more than one class."""
        return scoring.measure(data.cases.targets[data.cases.where("val")])

    def num_steps(self, data: Images, mode: str, train: np.ndarray, recipe: Recipe) -> int | None:
        """Optimiser steps; None for the probes."""
        return recipe.steps(len(train)) if mode in LOOP_MODE else None

    def network(self, backbone: Backbone, contract: dict[str, Any]) -> nn.Module:
        """The backbone with an output for each class."""
        return ImageHead.opened(backbone, len(contract["classes"]), contract, blocks=self.blocks)

    def contract(self, data: Images) -> dict[str, Any]:
        """The classes, in the order of the outputs."""
        return {"classes": data.cases.classes}

    def references(self, data: Images) -> Iterator[Mask]:
        """Empty: labels are classes."""
        yield from ()

    def rows(self, data: Images, predicted: np.ndarray | None) -> pd.DataFrame:
        """Probabilities of every validation and test case."""
        if predicted is None:
            raise ValueError("a classification predicts probabilities")
        return aggregated(rows_of(data.cases, data.asked, predicted), self.aggregate)

    def predict(self, model: FineTuned, source: Source) -> Iterator[Answer]:
        """A row for each case: `case_id unit_id unit predicted prob_<class>…`."""
        model.check(source)
        classes = model.contract["classes"]
        images = Images(*new_images(source, model.expected, classes))
        everything = np.arange(len(images.cases))
        predicted = self._probabilities(model.network, images, everything, model.device)
        table = aggregated(rows_of(images.cases, everything, predicted), self.aggregate)
        names = [PROBABILITY + name for name in classes]
        table["predicted"] = called(table[names].to_numpy(), classes, multilabel=self.multilabel)
        yield Answer(table[["case_id", "unit_id", "unit", "predicted", *names]])

    def fit(self, data: Images, setup: Setup) -> Fitted:
        """Fit on the cases `train`, choosing penalty or step by the score of those of split `val`."""
        if setup.mode not in LOOP_MODE:
            features = frozen_features(data, setup, blocks=self.blocks)
            return (self._knn if setup.mode == "knn" else self._linear)(data, setup, features)
        cases, train = data.cases, setup.train
        targets = cases.targets[train].astype(np.float32)
        num_steps = setup.recipe.steps(len(train))  # predictions add cases but no steps: a more confident start trains no longer
        rest = np.setdiff1d(cases.where("train"), train)

        def guess(fitted: Fitted) -> tuple[tuple[np.ndarray, np.ndarray], int]:
            guesses = self._probabilities(fitted.network, data, rest, setup.device)
            sure = np.flatnonzero(self._sure(guesses))
            return (rest[sure], self._hardened(guesses[sure])), len(sure)

        def refit(guesses: tuple[np.ndarray, np.ndarray], turn: int) -> Fitted:
            more = np.concatenate([train, guesses[0]]), np.concatenate([targets, guesses[1]])
            return self._full(data, setup, *more, num_steps, turn)

        return self_trained(self._full(data, setup, train, targets, num_steps, 0), self.self_training_rounds, guess, refit)

    def _knn(self, data: Images, setup: Setup, features: np.ndarray) -> Fitted:
        targets, val, asked = data.cases.targets, data.cases.where("val"), data.asked
        known = features[setup.train], targets[setup.train]
        both = probe.nearest_neighbours(known, features[np.concatenate([asked, val])], neighbours=self.neighbours)
        return Fitted(None, both[: len(asked)], facts={"val_score": scoring.score(both[len(asked) :], targets[val])})

    def _sure(self, guesses: np.ndarray) -> np.ndarray:
        """Which predictions `(n, classes)` are confident enough to become labels."""
        confidence = np.maximum(guesses, 1 - guesses).min(axis=1) if self.multilabel else guesses.max(axis=1)
        return confidence >= self.self_training_confidence

    def _hardened(self, guesses: np.ndarray) -> np.ndarray:
        hard = guesses >= 0.5 if self.multilabel else guesses == guesses.max(axis=1, keepdims=True)
        return hard.astype(np.float32)

    def _linear(self, data: Images, setup: Setup, features: np.ndarray) -> Fitted:
        targets, val = data.cases.targets, data.cases.where("val")
        found = probe.linear_probe(
            (features[setup.train], targets[setup.train]),
            (features[val], targets[val]),
            multilabel=self.multilabel,
            balanced=self.class_weights,
        )
        network = ImageHead.of(setup.backbone, found.weight, found.bias, blocks=self.blocks)
        probabilities = found.probabilities(features[data.asked], multilabel=self.multilabel)
        facts = {"val_score": found.score, "inverse_penalty": found.inverse_penalty}
        return Fitted(network, probabilities, facts=facts | {"trained_parameters": found.weight.size + found.bias.size})

    def _full(self, data: Images, setup: Setup, train: np.ndarray, targets: np.ndarray, num_steps: int, turn: int) -> Fitted:
        """Train on the cases `train` with targets `(n, classes)`, labels or the predictions of round `turn`."""
        of_val = data.cases.targets[data.cases.where("val")]
        network, trained = train_head(
            data,
            setup,
            train,
            targets,
            num_outputs=len(data.cases.classes),
            num_steps=num_steps,
            loss=self.loss(targets, setup.device),
            score=lambda logits: scoring.score(self._activated(logits), of_val),
            name=f"round-{turn}",
        )
        facts = {"val_score": trained.best_score, "best_step": trained.best_step, "steps": num_steps}
        facts["trained_parameters"] = trained.num_trained
        return Fitted(network, self._probabilities(network, data, data.asked, setup.device), facts=facts, curve=trained.curve)

    def loss(self, targets: np.ndarray, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """Cross-entropy (one class per case) or binary cross-entropy (several), with the class weights of `targets`."""
        positive = torch.from_numpy(targets.sum(axis=0)).to(device)
        if self.multilabel:
            weight = ((len(targets) - positive) / positive.clamp(min=1)).clamp(0.05, 20) if self.class_weights else None
            return lambda logits, wanted: F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight)
        weight = len(targets) / (positive.clamp(min=1) * len(positive)) if self.class_weights else None
        return lambda logits, wanted: F.cross_entropy(logits, wanted, weight=weight)

    def _probabilities(self, network: nn.Module, data: Images, indices: np.ndarray, device: torch.device) -> np.ndarray:
        """Class probabilities `(n, classes)` of some cases, float64."""
        return self._activated(outputs_of(network, data, indices, device))

    def _activated(self, logits: np.ndarray) -> np.ndarray:
        return probe.sigmoid(logits) if self.multilabel else probe.softmax(logits)


def called(probabilities: np.ndarray, classes: list[str], *, multilabel: bool) -> list[str]:
    """The most probable class of each row `(n, classes)`; with several labels per case all from 0.5 on, joined by `|`."""
    if not multilabel:
        return [classes[k] for k in probabilities.argmax(axis=1)]
    return [MANY.join(name for name, value in zip(classes, row, strict=True) if value >= 0.5) for row in probabilities]
