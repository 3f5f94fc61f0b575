"""Survival analysis: the time to an event, with cases that were lost from view before it. A Cox head on images' features."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from medssl.artefacts.predictions import RISK
from medssl.core.bounds import Count
from medssl.core.label_table import EVENT
from medssl.finetune import scoring
from medssl.finetune.cox import cox_loss, cox_probe
from medssl.finetune.labelled_data import read_numbers
from medssl.finetune.number_task import NumberTask, numbers_of
from medssl.finetune.numbers import timed
from medssl.finetune.predictions import aggregated, rows_with
from medssl.finetune.task import Fitted, NetworkInput, Setup, Source
from medssl.finetune.whole_images import LOOP_MODE, ImageHead, Images, frozen_features, outputs_of, train_head

TITLE = "survival analysis"
MODES = ["linear", "attentive", "full", "gradual", "lora"]
DEFAULT_MODES = ["linear", "full"]
PREDICTS = "risks"
TABLE = "risks.tsv"
MAIN_MODE = "full"
FROZEN_MODES = ["linear", "attentive"]
PROBES = ["linear"]
MODE_TITLES = {"full": "full fine-tuning", "linear": "linear probe", "attentive": "attentive probe", "lora": "LoRA"}
MODE_NEEDS = {"lora": ("HAS_ATTENTION", "it adapts the matrices of attention")}
DEFAULT_STEPS = 1000
COMPARES_IN_BATCH = ["attentive", "full", "gradual", "lora"]
SMALL_BATCH = (16, "the risk of an event's case is compared with those of its batch alone, and these are few. Set 32 or more")
REFUSES = {"mixup": "a mixture of two times to an event is not a time to an event"}


class Survival(NumberTask):
    """Orders images (2-D encoders) or volumes (3-D encoders) by the risk of an event.

    A prediction is the logarithm of the hazard, relative to that of the mean training case (Cox's proportional hazards).

    Options:
        measured_in: unit of the times, such as days or years, for the axes of the page.
        aggregate: the unit of a prediction: the `case` (image or slice), or the mean over the cases of a `volume` or a `unit`
            (patient).
        blocks: for mode `linear`, how many of the last blocks give features, each the mean of its map; a class token that the
            backbone pools counts as one.
    """

    COLUMN = RISK

    def __init__(
        self, *, measured_in: str = "", aggregate: Literal["case", "volume", "unit"] = "case", blocks: Count = 1
    ) -> None:
        self.measured_in = measured_in
        self.aggregate = aggregate
        self.blocks = blocks

    def read(self, source: Source, expected: NetworkInput) -> Images:
        """The images that have a time and an event or a censoring."""
        return Images.read(*read_numbers(source, expected, timed), self.aggregate)

    def selection(self, data: Images) -> str | None:
        """Harrell's C, if some two validation cases can be ordered."""
        followed = numbers_of(data)[data.cases.where("val")]
        return scoring.CONCORDANCE if scoring.can_be_ordered(followed) else None

    def rows(self, data: Images, predicted: np.ndarray | None) -> pd.DataFrame:
        """The risk of every validation and test case, with its event."""
        if predicted is None:
            raise ValueError("a survival analysis predicts risks")
        events = numbers_of(data)[data.asked, 1].astype(np.int64)
        return aggregated(rows_with(data.cases, data.asked, {EVENT: events, RISK: predicted[:, 0]}), self.aggregate)

    def fit(self, data: Images, setup: Setup) -> Fitted:
        """Fit on the cases `train`, choosing penalty or step by Harrell's C of those of split `val`."""
        return self._full(data, setup) if setup.mode in LOOP_MODE else self._linear(data, setup)

    def _linear(self, data: Images, setup: Setup) -> Fitted:
        features = frozen_features(data, setup, blocks=self.blocks)
        followed, val = numbers_of(data), data.cases.where("val")
        found = cox_probe((features[setup.train], followed[setup.train]), (features[val], followed[val]))
        network = ImageHead.of(setup.backbone, found.weight[None], np.array([found.bias]), blocks=self.blocks)
        facts = {"val_score": found.score, "inverse_penalty": found.inverse_penalty, "trained_parameters": found.weight.size}
        return Fitted(network, found(features[data.asked])[:, None], facts=facts)

    def _full(self, data: Images, setup: Setup) -> Fitted:
        """A batch is a small cohort of its own: its cases are at risk beside each other, and not beside those of other batches.

        Only the order of times counts, so the loss sees their ranks, which float32 holds exactly.
        """
        followed, train = numbers_of(data), setup.train
        of_val, num_steps = followed[data.cases.where("val")], setup.recipe.steps(len(train))
        network, trained = train_head(
            data,
            setup,
            train,
            np.stack([np.unique(followed[train, 0], return_inverse=True)[1], followed[train, 1]], axis=1).astype(np.float32),
            num_outputs=1,
            num_steps=num_steps,
            loss=cox_loss,
            score=lambda outputs: scoring.order_score(outputs.ravel(), of_val),
            name="fit",
        )
        network.rescale(1.0, -float(outputs_of(network, data, train, setup.device).mean()))
        facts = {"val_score": trained.best_score, "best_step": trained.best_step, "steps": num_steps}
        facts["trained_parameters"] = trained.num_trained
        return Fitted(network, outputs_of(network, data, data.asked, setup.device), facts=facts, curve=trained.curve)
