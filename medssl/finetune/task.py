"""The interface between the stage and a downstream task, and the values that pass between them. A task is one file of
`finetune/tasks`.

Literals at the top of that file declare what other code must know:

| literal | meaning |
|---|---|
| `MODES`, `DEFAULT_MODES` | how a starting point may be used, and the default of the study file |
| `FROZEN_MODES` | modes in which the encoder stays frozen; may be left out |
| `PROBES` | of these, modes fitted without steps, to features that are computed once; may be left out |
| `TRANSDUCTIVE` | modes that predict cases together, and the mode that is always fitted beside each; may be left out |
| `MODE_REFUSES` | for modes that exclude an option of the task, the option and the reason; may be left out |
| `MODE_NEEDS` | the literal of a backbone's file that a mode needs, and the reason; may be left out |
| `DEFAULT_AUGMENT` | the default of `augment`; may be left out |
| `DEFAULT_STEPS` | optimiser steps of a fit by default: scratch should have stopped improving there |
| `PREDICTS` | what its rows of predictions.parquet hold: probabilities of `classes`, `values`, `risks`, or names of `masks` |
| `REFUSES` | options of the recipe that it cannot have, and why; may be left out |
| `COMPARES_IN_BATCH` | modes whose loss compares the cases of a batch, so that one case has no gradient; may be left out |
| `SMALL_BATCH` | for these modes, the batch size below which a note is given before work, and its reason; may be left out |
| `GATED` | which maps `bottleneck` may gate, as its head reads them: the `last` one or `all`; left out, it has no bottleneck |
| `TITLE` | the task in words |
| `TABLE` | the table of `medssl predict` |
| `CONTINUES` | parts of its network that a run's part can initialise, such as `decoder`; may be left out |
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
from medssl.finetune.saving import CurveRow, Saving, Steps
from medssl.nn.options import DataPlace


@dataclass(frozen=True)
class Source:
    """The files of a prepared source. `images`: ingest's volumes, which have the original grids."""

    name: str
    samples: Path
    volumes: Path
    images: Path | None = None
    labels: Path | None = None
    label_masks: Path | None = None
    verified: Callable[[Path], Path] = lambda path: path
    """Refuses a file that does not match its receipt."""
    known_sha256: Callable[[Path], str | None] = lambda _: None
    """The hash that a file was verified against."""

    @classmethod
    def of(cls, job: Job, name: str) -> Source:
        """The labelled source of a job."""
        paths = {field.name: job.spec.inputs[field.name] for field in dataclasses.fields(cls) if field.name in job.spec.inputs}
        return cls(name, **{key: Path(path) for key, path in paths.items()}, verified=job.read, known_sha256=job.hash_of)

    def sha256(self, path: Path) -> str:
        """The hash of a file of the source, which is verified first if necessary."""
        return self.known_sha256(path) or self.known_sha256(self.verified(path)) or sha256_file(path)


@dataclass(frozen=True)
class NetworkInput:
    """The form of a task's images for its networks: rank, channels (one per window), size, position of the slice axis."""

    spatial_dims: int
    in_channels: int
    size: tuple[int, ...]
    cuts_slices: bool
    """Whether the axis across the slices comes last."""


@dataclass(frozen=True)
class Setup:
    """The inputs of one fit besides the data.

    Args:
        mode: one of the task's `MODES`.
        backbone: with its starting weights; must not be changed.
        chooses: whether the validation cases choose among steps; else the last one is kept.
        pretrained: tensors `<part>.<name>` that initialise the parts `CONTINUES` of the network; the rest starts at random.
        train: indices of the labelled training cases; those of split `val` may choose among steps.
        recipe: how networks are trained.
        seed: of order, augmentation, and random weights.
        device: where the network runs.
        data, workers: where images are stored, and how many processes read ahead; see `nn/options.py`.
        state: where a stopped fit finds its state, and seconds between two of them; None keeps none.
        report: called now and then with the steps since the last call.
    """

    mode: str
    backbone: Any
    train: np.ndarray
    recipe: Recipe
    seed: int
    device: torch.device
    pretrained: dict[str, Tensor] = field(default_factory=dict)
    chooses: bool = True
    data: DataPlace = "auto"
    workers: int = 0
    state: tuple[Path, float] | None = None
    report: Callable[[Steps], None] = lambda steps: None

    def saving(self, name: str) -> Saving | None:
        """The state of one training of the fit."""
        return None if self.state is None else Saving(self.state[0] / name, self.state[1])


@dataclass(frozen=True)
class Mask:
    """A mask of a case on the grid of the original image: values `(i, j, k)`, affine 4×4 to RAS+ mm."""

    case_id: str
    values: np.ndarray
    affine: np.ndarray


@dataclass
class Fitted:
    """The outcome of a fit.

    Args:
        network: None if there is none to keep.
        predicted: the input of `Task.rows`; None if masks are enough.
        masks: of the test cases, computed one by one.
        facts: for fits.tsv, `val_score` among them; `steps`, if there are any.
        curve: steps, loss and validation score; with gates also open channels and all.
    """

    network: Any
    predicted: np.ndarray | None = None
    masks: Iterable[Mask] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    curve: list[CurveRow] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """A model's prediction for new images: rows of the task's `TABLE`, and their mask."""

    rows: pd.DataFrame
    mask: Mask | None = None


class Labelled(Protocol):
    """A task's data: a frozen dataclass with the labelled cases, and whatever else a fit needs of them."""

    @property
    def cases(self) -> Cases:
        """The labelled cases, in a fixed order."""


class FineTuned(Protocol):
    """A fine-tuned network, opened to predict (`finetune/predicting.py`)."""

    @property
    def contract(self) -> dict[str, Any]:
        """Its contract, as plain values."""

    @property
    def network(self) -> Any:
        """On its device, ready to predict."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    @property
    def expected(self) -> NetworkInput:
        """The required form of images."""

    def check(self, source: Source) -> None:
        """Compare prepared images with the training images.

        Raises:
            StudyError: they differ.
        """


class Task(Protocol):
    """A downstream task; its keyword-only options are the schema of `finetune.<task>.options`.

    A task whose fits train up to `1 + n` times has an attribute `self_training_rounds` with the value n.
    """

    def read(self, source: Source, expected: NetworkInput) -> Any:
        """The labelled cases of a source.

        Raises:
            StudyError: it has no labels for this task, or its images do not suit the networks.
        """

    def selection(self, data: Any) -> str | None:
        """The name of the validation score on these cases, which chooses among steps and models. None if they carry no
        information.
        """

    def num_steps(self, data: Any, mode: str, train: np.ndarray, recipe: Recipe) -> int | None:
        """Optimiser steps of a fit on the cases `train`; None if the recipe does not apply to a mode."""

    def fit(self, data: Any, setup: Setup) -> Fitted:
        """One fit; the same arguments give the same bits."""

    def rows(self, data: Any, predicted: np.ndarray | None) -> pd.DataFrame:
        """The rows of predictions.parquet of a fit: `split case_id unit_id unit target`, and the prediction.

        Columns of predictions are `prob_<class>`, or a number; a column `prediction` names masks, relative to the folder of the
        fit: `<case_id>.nii.gz`.
        """

    def references(self, data: Any) -> Iterator[Mask]:
        """The given mask of every test case; empty if labels are not masks."""

    def contract(self, data: Any) -> dict[str, Any]:
        """The contract's description of the outputs: `classes`, none for numbers, and whatever else the task needs to predict."""

    def network(self, backbone: Any, contract: dict[str, Any]) -> nn.Module:
        """The backbone with this task's head, for the outputs of a contract; it has the part `backbone`."""

    def predict(self, model: FineTuned, source: Source) -> Iterator[Answer]:
        """The predictions of a fine-tuned model for a prepared source."""
