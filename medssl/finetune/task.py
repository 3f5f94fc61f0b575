"""What the stage asks of a downstream task, and the values that pass between the two. A task is one file of `finetune/tasks`.

Literals at the top of that file say what others must know of it:

| literal | meaning |
|---|---|
| `MODES`, `DEFAULT_MODES` | how a starting point may be used, and how it is where the study file does not say |
| `DEFAULT_AUGMENT` | what `augment` is where the study file does not say; may be left out |
| `DEFAULT_STEPS` | optimiser steps of a fit where the study file gives no length: scratch should have stopped rising there |
| `PREDICTS` | `classes`: its rows of predictions.parquet hold probabilities; `masks`: they name masks |
| `TITLE` | the task in words |
| `TABLE` | the table of `medssl predict` |
| `CONTINUES` | parts of its network that go on with what a run learnt beside its encoder, such as `decoder`; may be left out |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from medssl.core.files import sha256_file
from medssl.core.job import Job
from medssl.finetune.cases import Cases
from medssl.finetune.recipe import Recipe
from medssl.finetune.saving import Saving
from medssl.nn.options import DataPlace


@dataclass(frozen=True)
class Source:
    """The files of a prepared source. `images`: ingest's volumes, which know the grids as they were given."""

    name: str
    samples: Path
    volumes: Path
    images: Path | None = None
    labels: Path | None = None
    label_masks: Path | None = None
    verified: Callable[[Path], Path] = lambda path: path
    """Refuses a file that is not as its receipt says."""
    known_sha256: Callable[[Path], str | None] = lambda _: None
    """The hash that a file was verified against."""

    @classmethod
    def of(cls, job: Job, name: str) -> Source:
        """The labelled source of a job."""
        paths = {field.name: job.spec.inputs[field.name] for field in dataclasses.fields(cls) if field.name in job.spec.inputs}
        return cls(name, **{key: Path(path) for key, path in paths.items()}, verified=job.read, known_sha256=job.hash_of)

    def sha256(self, path: Path) -> str:
        """The hash of a file of the source, which is verified where it was not yet."""
        return self.known_sha256(path) or self.known_sha256(self.verified(path)) or sha256_file(path)


@dataclass(frozen=True)
class NetworkInput:
    """What the images of a task are for its networks: rank, channels (one for each window), size, where the slices lie."""

    spatial_dims: int
    in_channels: int
    size: tuple[int, ...]
    cuts_slices: bool
    """Whether the axis across the slices comes last."""


@dataclass(frozen=True)
class Setup:
    """What one fit is given beside the data.

    Args:
        mode: one of the task's `MODES`.
        backbone: with its starting weights; not to be changed.
        chooses: whether the validation cases choose among steps; else the last one is kept.
        learnt: tensors `<part>.<name>` that the parts `CONTINUES` of the network begin with; the rest is drawn.
        train: indices of the labelled training cases; those of split `val` may choose among steps.
        recipe: how networks are trained.
        seed: of order, augmentation, and of what is drawn.
        device: where the network runs.
        data, workers: where images lie, and how many processes read ahead; see `nn/options.py`.
        state: where a stopped fit finds its state, and seconds between two of them; None keeps none.
        tell: called now and then with the number of steps since the last time.
    """

    mode: str
    backbone: Any
    train: np.ndarray
    recipe: Recipe
    seed: int
    device: torch.device
    learnt: dict[str, Tensor] = field(default_factory=dict)
    chooses: bool = True
    data: DataPlace = "auto"
    workers: int = 0
    state: tuple[Path, float] | None = None
    report: Callable[[int], None] = lambda steps: None

    def saving(self, name: str) -> Saving | None:
        """Where the state of one training of the fit lies."""
        return None if self.state is None else Saving(self.state[0] / name, self.state[1])


@dataclass(frozen=True)
class Mask:
    """A mask of a case on the grid of the image as it was given: values `(i, j, k)`, affine 4×4 to RAS+ mm."""

    case_id: str
    values: np.ndarray
    affine: np.ndarray


@dataclass
class Fitted:
    """What a fit leaves.

    Args:
        network: None where there is none to keep.
        predicted: what `Task.rows` makes rows of; None where masks say it all.
        masks: of the test cases, made one by one.
        facts: for fits.tsv, `val_score` among them; `steps`, where there are some.
        curve: steps, loss and validation score.
    """

    network: Any
    predicted: np.ndarray | None = None
    masks: Iterable[Mask] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    curve: list[tuple[int, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """What a model says of new images: rows of the task's `TABLE`, and the mask that they are of."""

    rows: pd.DataFrame
    mask: Mask | None = None


class Labelled(Protocol):
    """What a task has read: a frozen dataclass with the labelled cases, and what else a fit needs of them."""

    @property
    def cases(self) -> Cases:
        """The labelled cases, in a fixed order."""


class FineTuned(Protocol):
    """A fine-tuned network, opened to predict (`finetune/predicting.py`)."""

    @property
    def contract(self) -> dict[str, Any]:
        """What it says of itself."""

    @property
    def network(self) -> Any:
        """On its device, ready to predict."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    @property
    def expected(self) -> NetworkInput:
        """What images must be like."""

    def check(self, source: Source) -> None:
        """Hold prepared images against what it learnt from.

        Raises:
            StudyError: they are unlike it.
        """


class Task(Protocol):
    """A downstream task; its keyword-only options are the schema of `finetune.<task>.options`."""

    def read(self, source: Source, expected: NetworkInput) -> Any:
        """The labelled cases of a source.

        Raises:
            StudyError: it has no labels for this task, or its images do not suit the networks.
        """

    def selection(self, data: Any) -> str | None:
        """The validation score of these cases, in words: what chooses among steps and models. None where they tell nothing."""

    def num_steps(self, data: Any, mode: str, train: np.ndarray, recipe: Recipe) -> int | None:
        """Optimiser steps of a fit on the cases `train`; None where the recipe means nothing to a mode."""

    def fit(self, data: Any, setup: Setup) -> Fitted:
        """One fit; the same arguments give the same bits."""

    def rows(self, data: Any, predicted: np.ndarray | None) -> pd.DataFrame:
        """The rows of predictions.parquet of a fit: `split case_id unit_id unit target`, and what was predicted.

        A column `prediction` names masks, relative to the folder of the fit: `<case_id>.nii.gz`.
        """

    def references(self, data: Any) -> Iterator[Mask]:
        """The given mask of every test case; nothing where labels are no masks."""

    def contract(self, data: Any) -> dict[str, Any]:
        """What the contract of a model says of the outputs: `classes`, and what else the task needs to predict."""

    def network(self, backbone: Any, contract: dict[str, Any]) -> nn.Module:
        """The backbone with this task's head, for the outputs of a contract; it has the part `backbone`."""

    def predict(self, model: FineTuned, source: Source) -> Iterator[Answer]:
        """What a fine-tuned model says of a prepared source."""
