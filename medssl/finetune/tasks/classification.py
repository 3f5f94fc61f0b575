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
from medssl.core.bounds import Count, Part, Positive, SharesOfClasses, Whole
from medssl.core.errors import StudyError
from medssl.core.label_table import MANY
from medssl.finetune import probe, scoring
from medssl.finetune.alignment import DEFAULT_EPSILON, EPSILONS, Means, Moving, smoothed_shares, standardised
from medssl.finetune.labelled_data import new_images, read_images
from medssl.finetune.predictions import aggregated, rows_of
from medssl.finetune.recipe import Recipe
from medssl.finetune.self_training import self_trained
from medssl.finetune.task import Answer, FineTuned, Fitted, Mask, NetworkInput, Setup, Source
from medssl.finetune.whole_images import LOOP_MODE, ImageHead, Images, frozen_features, outputs_of, train_head
from medssl.nn.backbone import Backbone

TITLE = "classification"
MODES = ["linear", "knn", "nearest_mean", "aligned", "attentive", "full", "gradual", "lora"]
DEFAULT_MODES = ["linear", "full"]
PREDICTS = "classes"
TABLE = "probabilities.tsv"
MAIN_MODE = "full"
"""The mode that the report puts first."""
FROZEN_MODES = ["linear", "knn", "nearest_mean", "aligned", "attentive"]
"""Modes in which the encoder stays frozen."""
PROBES = ["linear", "knn", "nearest_mean", "aligned"]
"""Modes fitted without steps, to features that are computed once."""
TRANSDUCTIVE = {"aligned": "nearest_mean"}
"""Modes whose prediction of a case depends on the other cases, and the mode that is fitted beside each, for which it does not."""
GATED = "last"
MODE_TITLES = {
    "full": "full fine-tuning",
    "linear": "linear probe",
    "knn": "nearest neighbours",
    "nearest_mean": "nearest class mean",
    "aligned": "transductive class means",
    "attentive": "attentive probe",
    "lora": "LoRA",
}
"""Modes in words, if their own name is not enough."""
MODE_NEEDS = {"lora": ("HAS_ATTENTION", "it adapts the matrices of attention")}
"""For modes that not every backbone can have, the literal of a backbone's file that allows it, and the reason."""
MODE_REFUSES = {
    "aligned": {"multilabel": "each case goes to one class mean"},
    "nearest_mean": {"multilabel": "each case goes to one class mean"},
}
"""For modes that exclude an option of the task, the option and the reason."""
DEFAULT_STEPS = 1000
"""Steps of a fit by default."""


class Classification:
    """Assigns classes to images (2-D encoders) or volumes (3-D encoders).

    Options:
        multilabel: a case may have several classes, joined by `|` in the labels, or none.
        class_weights: weight the classes in the loss inversely to their frequency.
        aggregate: the unit of a prediction: the `case` (image or slice), or the mean over the cases of a `volume` or a `unit`
            (patient).
        blocks: for modes `linear`, `knn`, `nearest_mean` and `aligned`, how many of the last blocks give features, each the mean
            of its map; a class token that the backbone pools counts as one.
        neighbours: for mode `knn`, how many of the nearest training cases vote.
        prior: for modes `nearest_mean` and `aligned`, the shares of the classes: those of the labelled cases (`support`),
            `equal`, or a number for each class in the order of the classes (numbers by size, else by the alphabet).
        prior_rounds: for mode `aligned`, rounds in which the shares of the classes are estimated from the predicted cases;
            0 keeps those of `prior`.
        rho_class: for mode `aligned`, how strongly the cases of each class hold to its share; null holds exactly, as in the
            paper.
        passes: for mode `aligned`, how often class means move; null moves them five times with up to two labelled cases per
            class, else once.
        keep: for mode `aligned`, share of its first place in a class mean that moved, unless it is of a single case, 0…1.
        head: for modes `nearest_mean` and `aligned`, whether probabilities come from distances and shares (`softmax`), or from
            a logistic regression on the class means (`logistic`), as in the paper.
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
        prior: SharesOfClasses = "support",
        prior_rounds: Whole = 10,
        rho_class: Positive | None = 1.0,
        passes: Count | None = None,
        keep: Part = 0.3,
        head: Literal["softmax", "logistic"] = "softmax",
        self_training_rounds: Whole = 0,
        self_training_confidence: Part = 0.9,
    ) -> None:
        self.multilabel = multilabel
        self.class_weights = class_weights
        self.aggregate = aggregate
        self.blocks = blocks
        self.neighbours = neighbours
        self.prior = prior
        self.moving = Moving(prior_rounds, rho_class, passes, keep)
        self.head: Literal["softmax", "logistic"] = head
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
            probes = {"linear": self._linear, "knn": self._knn, "nearest_mean": self._means, "aligned": self._means}
            return probes[setup.mode](data, setup, frozen_features(data, setup, blocks=self.blocks))
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

    def _means(self, data: Images, setup: Setup, features: np.ndarray) -> Fitted:
        """Class means that stay, or move to the cases of each part; the label of a predicted case is not read."""
        cases, vectors, targets = data.cases, standardised(features), data.cases.targets
        train, val, test = setup.train, cases.where("val"), cases.where("test")
        present = np.flatnonzero(targets[train].any(axis=0))
        means = Means.of(vectors[train], targets[train][:, present], self._prior(targets[train])[present])

        def predicted(part: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
            found, of_class = np.zeros((len(part), len(cases.classes))), means.prior
            if setup.mode == "aligned":
                found[:, present], of_class = means.move(vectors[part], epsilon, self.moving, self.head)
            else:
                found[:, present] = means.stay(vectors[part], epsilon, self.head)
            return found, of_class

        by_epsilon = {epsilon: predicted(val, epsilon)[0] for epsilon in (EPSILONS if len(val) else (DEFAULT_EPSILON,))}
        scores = {epsilon: scoring.score(found, targets[val]) for epsilon, found in by_epsilon.items()}
        losses = {epsilon: scoring.log_loss(found, targets[val]) if len(val) else 0.0 for epsilon, found in by_epsilon.items()}
        best = max(by_epsilon, key=lambda epsilon: (scores[epsilon], -losses[epsilon]))
        found, of_class = predicted(test, best)
        names = [cases.classes[k] for k in present]
        facts: dict[str, Any] = {"val_score": scores[best], "transductive": setup.mode in TRANSDUCTIVE, "epsilon": best}
        facts["class_shares"] = ", ".join(f"{name}: {share:.3f}" for name, share in zip(names, of_class, strict=True))
        return Fitted(None, np.concatenate([by_epsilon[best], found]), facts=facts)

    def _prior(self, targets: np.ndarray) -> np.ndarray:
        """The shares of the classes before any estimate, by 0/1 targets `(n, classes)` of the labelled cases."""
        if isinstance(self.prior, str):
            return smoothed_shares(targets.sum(axis=0)) if self.prior == "support" else np.ones(targets.shape[1])
        if len(self.prior) != targets.shape[1]:
            raise StudyError(
                f"finetune.<task>.options.prior has {len(self.prior)} numbers, and there are {targets.shape[1]} classes; "
                "expected a number for each. Correct it, or write support or equal."
            )
        return np.array(self.prior)

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
            answers=targets.shape[1] if self.multilabel else 1,
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
