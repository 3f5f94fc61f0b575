"""Regression of a number, such as age or ejection fraction: ridge probe, nearest neighbours, full fine-tuning, unfreezing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from medssl.artefacts.predictions import VALUE
from medssl.core.bounds import Count
from medssl.finetune import probe, scoring
from medssl.finetune.labelled_data import read_numbers
from medssl.finetune.number_task import NumberTask, numbers_of
from medssl.finetune.numbers import measured
from medssl.finetune.predictions import aggregated, rows_with
from medssl.finetune.task import Fitted, NetworkInput, Setup, Source
from medssl.finetune.whole_images import LOOP_MODE, ImageHead, Images, frozen_features, outputs_of, train_head

TITLE = "regression"
MODES = ["linear", "knn", "attentive", "full", "gradual", "lora"]
DEFAULT_MODES = ["linear", "full"]
PREDICTS = "values"
TABLE = "values.tsv"
MAIN_MODE = "full"
FROZEN_MODES = ["linear", "knn", "attentive"]
PROBES = ["linear", "knn"]
MODE_TITLES = {
    "full": "full fine-tuning",
    "linear": "linear probe",
    "knn": "nearest neighbours",
    "attentive": "attentive probe",
    "lora": "LoRA",
}
MODE_NEEDS = {"lora": ("HAS_ATTENTION", "it adapts the matrices of attention")}
DEFAULT_STEPS = 1000


class Regression(NumberTask):
    """Assigns a number to images (2-D encoders) or volumes (3-D encoders).

    Values are standardised by the training cases of a fit, and predicted in the unit of the labels.

    Options:
        measured_in: unit of the labels, such as years or %, for the axes of the page.
        loss: `mse`, squared errors; `huber`, squared up to one standard deviation of the labels and linear beyond, for labels
            with outliers.
        aggregate: the unit of a prediction: the `case` (image or slice), or the mean over the cases of a `volume` or a `unit`
            (patient).
        blocks: for modes `linear` and `knn`, how many of the last blocks give features, each the mean of its map; a class token
            that the backbone pools counts as one.
        neighbours: for mode `knn`, over how many of the nearest training cases the mean goes.
    """

    COLUMN = VALUE

    def __init__(
        self,
        *,
        measured_in: str = "",
        loss: Literal["mse", "huber"] = "mse",
        aggregate: Literal["case", "volume", "unit"] = "case",
        blocks: Count = 1,
        neighbours: Count = 20,
    ) -> None:
        self.measured_in = measured_in
        self.loss: Callable[[Tensor, Tensor], Tensor] = F.mse_loss if loss == "mse" else F.huber_loss
        self.aggregate = aggregate
        self.blocks = blocks
        self.neighbours = neighbours

    def read(self, source: Source, expected: NetworkInput) -> Images:
        """The images that have a number."""
        return Images.read(*read_numbers(source, expected, measured), self.aggregate)

    def selection(self, data: Images) -> str | None:
        """Minus the mean absolute error, if there are validation cases."""
        return scoring.NEGATIVE_ERROR if len(data.cases.where("val")) else None

    def rows(self, data: Images, predicted: np.ndarray | None) -> pd.DataFrame:
        """The value of every validation and test case."""
        if predicted is None:
            raise ValueError("a regression predicts values")
        return aggregated(rows_with(data.cases, data.asked, {VALUE: predicted[:, 0]}), self.aggregate)

    def fit(self, data: Images, setup: Setup) -> Fitted:
        """Fit on the cases `train`, choosing penalty or step by the error of those of split `val`."""
        if setup.mode not in LOOP_MODE:
            features = frozen_features(data, setup, blocks=self.blocks)
            return (self._knn if setup.mode == "knn" else self._linear)(data, setup, features)
        return self._full(data, setup)

    def _knn(self, data: Images, setup: Setup, features: np.ndarray) -> Fitted:
        values, val, asked = _values(data), data.cases.where("val"), data.asked
        known = features[setup.train], values[setup.train, None]
        predicted = probe.nearest_neighbours(known, features[np.concatenate([asked, val])], neighbours=self.neighbours)
        score = scoring.error_score(predicted[len(asked) :, 0], values[val])
        return Fitted(None, predicted[: len(asked)], facts={"val_score": score})

    def _linear(self, data: Images, setup: Setup, features: np.ndarray) -> Fitted:
        values, val = _values(data), data.cases.where("val")
        found = probe.ridge_probe((features[setup.train], values[setup.train]), (features[val], values[val]))
        network = ImageHead.of(setup.backbone, found.weight[None], np.array([found.bias]), blocks=self.blocks)
        facts = {"val_score": found.score, "inverse_penalty": found.inverse_penalty, "trained_parameters": found.weight.size + 1}
        return Fitted(network, found(features[data.asked])[:, None], facts=facts)

    def _full(self, data: Images, setup: Setup) -> Fitted:
        values, train = _values(data), setup.train
        centre, spread = probe.centre_of(values[train])
        of_val = values[data.cases.where("val")]
        num_steps = setup.recipe.steps(len(train))
        network, trained = train_head(
            data,
            setup,
            train,
            ((values[train, None] - centre) / spread).astype(np.float32),
            num_outputs=1,
            num_steps=num_steps,
            loss=self.loss,
            score=lambda outputs: scoring.error_score(spread * outputs.ravel() + centre, of_val),
            name="fit",
        )
        network.rescale(spread, centre)
        facts = {"val_score": trained.best_score, "best_step": trained.best_step, "steps": num_steps}
        facts["trained_parameters"] = trained.num_trained
        return Fitted(network, outputs_of(network, data, data.asked, setup.device), facts=facts, curve=trained.curve)


def _values(data: Images) -> np.ndarray:
    """The label of each case, float64 `(n,)`."""
    values: np.ndarray = numbers_of(data)[:, 0]
    return values
