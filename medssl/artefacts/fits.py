"""What stage finetune writes about its fits: `fits.tsv`, `curves.tsv`, `splits.parquet`, and the contract of each best model."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from medssl.artefacts.column import HASH, Column
from medssl.artefacts.document import Document, meant
from medssl.artefacts.encoder import Network
from medssl.artefacts.schema import Table
from medssl.artefacts.training_images import TrainingImages, Window
from medssl.artefacts.volumes import SPLITS
from medssl.core.errors import CorruptArtefactError

MODEL_FORMAT = "medssl-model-1"
CLOSED_BELOW = 0.02
"""Share of open channels below which a bottleneck has closed the network."""

FIT_ID = Column("fit_id", "str", "`<start>-<mode>-<share>-s<seed>`, see `medssl/artefacts/names.py`")
INIT = Column("init", "str", "the arm that it starts from: a starting point without its pre-training seed")
PRETRAIN_SEED = Column(
    "pretrain_seed", "int64", "seed of the run, or draw of scratch; missing if there is only one", nullable=True
)
MODE = Column("mode", "str", "how it is trained: a word of the task's modes")
FRACTION = Column("fraction", "float64", "requested share of the training units", "0…1")
SEED = Column("seed", "int64", "of the fit")
FOLD = Column("fold", "int64", "the fold that is tested; only with `prepare.split.folds`", optional=True)
UNIT_ID = Column("unit_id", "str", "what the split keeps together: patient, else series or image")

FITS = Table(
    file="fits.tsv",
    folder="5_finetune/<task>",
    meaning="A row per fit, or per fit and fold: to show that starting points were treated equally. Options of training are "
    "missing for probes.",
    columns=(
        FIT_ID,
        INIT,
        PRETRAIN_SEED,
        MODE,
        FRACTION,
        SEED,
        FOLD,
        Column("num_train", "int64", "training cases"),
        Column("num_train_units", "int64", "training units used"),
        Column("num_units", "int64", "training units in total"),
        Column("num_val", "int64", "validation cases"),
        Column("num_test", "int64", "test cases"),
        Column("train_ids_sha256", "str", "of the ids of the training cases", form=HASH),
        Column("backbone", "str", "of the network"),
        Column("parameters", "int64", "of the backbone"),
        Column(
            "trained_parameters",
            "int64",
            "trained, of head and backbone; missing for nearest neighbours",
            nullable=True,
            optional=True,
        ),
        Column("encoder_sha256", "str", "of the starting weights; missing for scratch", nullable=True, form=HASH),
        Column("size", "list", "of the images or patches", "voxels", item="int"),
        Column(
            "selection",
            "str",
            "how a step or penalty was chosen, and which validation score `val_score` holds, or why there is none",
        ),
        Column("batch_size", "int64", "cases a step", nullable=True),
        Column("lr", "float64", "peak learning rate; of several the one that validation chose", nullable=True),
        Column("weight_decay", "float64", "of the optimiser", nullable=True),
        Column("warmup_frac", "float64", "share of the steps", "0…1", nullable=True),
        Column("layer_decay", "float64", "of the learning rate, layer by layer", nullable=True),
        Column("augment", "bool", "whether images were changed at random", nullable=True),
        Column("precision", "str", "arithmetic of the network in training", nullable=True),
        Column("mixup", "float64", "its α; 0: none", nullable=True),
        Column("calibration_batches", "int64", "batches that normalisation was calibrated on", nullable=True),
        Column("steps", "int64", "optimiser steps", nullable=True),
        Column("best_step", "int64", "the step that was chosen", nullable=True),
        Column("inverse_penalty", "float64", "chosen for a linear probe", nullable=True),
        Column("epsilon", "float64", "chosen for class means: the entropy of their transport", nullable=True, optional=True),
        Column("transductive", "bool", "of class means: whether test cases are predicted together", nullable=True, optional=True),
        Column("class_shares", "str", "of class means: the share of each class, as estimated", nullable=True, optional=True),
        Column("val_score", "float64", "validation score of the chosen step or penalty", nullable=True),
        Column("seconds", "float64", "of the fit, for people", "s"),
    ),
    others="what the task says of its fits, by name",
    unique=("fit_id", "fold"),
)

CURVES = Table(
    file="curves.tsv",
    folder="5_finetune/<task>",
    meaning="A row per evaluation of a fit.",
    columns=(
        FIT_ID,
        FOLD,
        Column("step", "int64", "optimiser steps done"),
        Column("loss", "float64", "mean since the row before", nullable=True),
        Column("val_score", "float64", "validation score", nullable=True),
        Column("kept", "list", "with a bottleneck: open channels of each gated map", nullable=True, optional=True, item="int"),
        Column("channels", "list", "all channels of each", nullable=True, optional=True, item="int"),
    ),
)

SPLITS_OF_FITS = Table(
    file="splits.parquet",
    folder="5_finetune/<task>",
    meaning="A row per case of each nested training subset, then the validation and test cases; of each fold.",
    columns=(
        Column("split", "str", "part", choices=SPLITS),
        Column("case_id", "str", "the case"),
        UNIT_ID,
        Column("unit", "str", "what the unit is: `patient` or `image`"),
        Column("label", "str", "its class; several joined by a vertical bar", nullable=True),
        Column("seed", "int64", "of the subset; missing for validation and test", nullable=True),
        Column("fraction", "float64", "of the subset; missing for validation and test", "0…1", nullable=True),
        Column("rank", "int64", "the order in which its unit enters; missing for validation and test", nullable=True),
        FOLD,
    ),
)


def has_closed(kept: list[int], channels: list[int]) -> bool:
    """Whether so few channels of the gated maps are open that a bottleneck has closed the network."""
    return sum(kept) < max(1, CLOSED_BELOW * sum(channels))


class FitOfModel(Document):
    """The fit that a model comes from."""

    fit_id: str = meant("see `fits.tsv`")
    init: str = meant("see `fits.tsv`")
    pretrain_seed: int | None = meant("see `fits.tsv`")
    mode: str = meant("see `fits.tsv`")
    seed: int = meant("see `fits.tsv`")
    num_train: int = meant("training cases")
    val_score: float | None = meant("its validation score")
    fold: int | None = meant("see `fits.tsv`", default=None)


class ModelContract(Network):
    """`contract.json` of a fine-tuned model: what `medssl predict` needs besides the weights."""

    FILE: ClassVar[str] = "contract.json"
    FOLDER: ClassVar[str] = "5_finetune/<task>/models/<start>"
    MEANING: ClassVar[str] = "Beside `model.safetensors`, the best fit of a starting point with the most labels."

    format: str = meant(f"`{MODEL_FORMAT}`")
    task: str = meant("its plug-in")
    options: dict[str, Any] = meant("of the task, completed")
    classes: list[str] = meant("names, in the order of the outputs (the background left out); none of a task of numbers")
    orientation: str = meant("`RAS+`")
    spacing_mm: list[float] | None = meant("median of the source; null for images", "mm")
    window: Window = meant("of the source")
    normalisation: str = meant("from values to inputs, in words")
    learnt: TrainingImages | None = meant(
        "what the training images were like, for comparison with new ones; absent in older contracts", default=None
    )
    fit: FitOfModel = meant("the fit that it is of")
    recipe: dict[str, Any] = meant("how it was trained")
    ingest: dict[str, Any] | None = meant("how the source was ingested, for the same treatment of new images")
    prepare: dict[str, Any] | None = meant("how it was prepared")
    encoder: dict[str, Any] | None = meant("contract of the network that it started from; null for scratch")
    encoder_sha256: str | None = meant("of the starting weights; null for scratch")
    spec: str = meant("hash of the job's options")
    mask_values: list[int] | None = meant("segmentation: the mask value of each output, the background first", default=None)
    slice_axis: str | None = meant("segmentation: where slices are cut", default=None)

    @classmethod
    def check(cls, value: Any, where: Any = "") -> Self:
        """The contract made from plain values.

        Raises:
            CorruptArtefactError: a field is missing or wrong, or it is an encoder's.
        """
        if isinstance(value, dict) and value.get("format") != MODEL_FORMAT:
            raise CorruptArtefactError(
                f"{where or cls.FILE} is {value.get('format')!r}; expected {MODEL_FORMAT!r}: an encoder alone predicts nothing. "
                "Fine-tune it."
            )
        return super().check(value, where)

    @property
    def network(self) -> Network:
        """The arguments that build the backbone."""
        return Network(**{name: getattr(self, name) for name in Network.model_fields})
