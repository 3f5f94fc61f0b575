"""What tasks that predict one number per case share: a network with one output, its rows, and predictions for new images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn

from medssl.finetune.labelled_data import new_images
from medssl.finetune.predictions import aggregated, rows_with
from medssl.finetune.recipe import Recipe
from medssl.finetune.task import Answer, FineTuned, Mask, Source
from medssl.finetune.whole_images import LOOP_MODE, ImageHead, Images, outputs_of
from medssl.nn.backbone import Backbone


class NumberTask:
    """Predicts a column of numbers; a subclass is a task with its own labels, loss, fit and rows."""

    COLUMN: ClassVar[str]
    """The column of its predictions."""
    aggregate: Literal["case", "volume", "unit"]
    blocks: int

    def num_steps(self, data: Images, mode: str, train: np.ndarray, recipe: Recipe) -> int | None:
        """Optimiser steps; None for the probes."""
        return recipe.steps(len(train)) if mode in LOOP_MODE else None

    def network(self, backbone: Backbone, contract: dict[str, Any]) -> nn.Module:
        """The backbone with one output."""
        return ImageHead.opened(backbone, 1, contract, blocks=self.blocks)

    def contract(self, data: Images) -> dict[str, Any]:
        """No class: the one output is the number."""
        return {"classes": []}

    def references(self, data: Images) -> Iterator[Mask]:
        """Empty: labels are numbers."""
        yield from ()

    def predict(self, model: FineTuned, source: Source) -> Iterator[Answer]:
        """A row for each case: `case_id unit_id unit`, and the number."""
        model.check(source)
        images = Images(*new_images(source, model.expected, []))
        everything = np.arange(len(images.cases))
        numbers = outputs_of(model.network, images, everything, model.device)[:, 0]
        table = aggregated(rows_with(images.cases, everything, {self.COLUMN: numbers}), self.aggregate)
        yield Answer(table[["case_id", "unit_id", "unit", self.COLUMN]])


def numbers_of(data: Images) -> np.ndarray:
    """The labels of cases that are numbers, float64 `(n, columns)`."""
    if data.cases.numbers is None:
        raise ValueError("this task needs cases whose labels are numbers")
    return data.cases.numbers
