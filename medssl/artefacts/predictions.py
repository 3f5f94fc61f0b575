"""`predictions.parquet` of stage finetune: a row per fit and case; and the tables of `medssl predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl.artefacts.column import INSIDE, Column
from medssl.artefacts.fits import FIT_ID, FOLD, FRACTION, INIT, MODE, PRETRAIN_SEED, SEED, UNIT_ID
from medssl.artefacts.labels import GROUPS
from medssl.artefacts.schema import Family, Table
from medssl.artefacts.volumes import SPLITS, VOLUME_ID
from medssl.core.label_table import EVENT

if TYPE_CHECKING:
    import pandas as pd

PROBABILITY = "prob_"
"""Prefix of the probability column of a class."""
PROBABILITIES_OF_CLASSES = Family(PROBABILITY, Column("<class>", "float64", "probability of the class", "0…1", nullable=True))

VALUE, RISK = PREDICTED = ("value", "risk")
"""Columns of predictions that are numbers."""
RISK_RANK = "risk_rank"
"""What evaluation takes for a risk if several folds made the predictions."""

PREDICTIONS = Table(
    file="predictions.parquet",
    folder="5_finetune/<task>",
    meaning="A row per fit and case: probabilities or a number for the validation and test cases, or a mask for each test case. "
    "Of folds the test cases alone, so that each case is there once.",
    columns=(
        FIT_ID,
        INIT,
        Column("pretrain_seed", "int64", PRETRAIN_SEED.meaning, nullable=True, optional=True),
        MODE,
        FRACTION,
        Column("num_train", "int64", "training cases of the fit", optional=True),
        SEED,
        FOLD,
        Column("split", "str", "part of the case", choices=SPLITS),
        Column("case_id", "str", "sample or volume; unit or volume where cases are aggregated"),
        UNIT_ID,
        Column("unit", "str", "what the unit is: `patient` or `image`", optional=True),
        Column("target", "str", "class, several joined by a vertical bar; number; or the path of the mask", nullable=True),
        Column(EVENT, "int64", "with a time as target: 1 if the event happened, 0 if censored", optional=True),
        Column(VALUE, "float64", "predicted value of a regression", "the label's", optional=True),
        Column(RISK, "float64", "predicted logarithm of the hazard, relative to that of the mean training case", optional=True),
        Column("prediction", "str", "path of the predicted mask, relative to this folder", optional=True, form=INSIDE),
        Column("classes", "dict", "mask value → class name", optional=True),
        Column("spacing_mm", "list", "voxel size of the masks", "mm", optional=True, shape=(3,)),
    ),
    families=(PROBABILITIES_OF_CLASSES, GROUPS),
    unique=("fit_id", "fold", "case_id"),
)

_CASE = (
    Column("case_id", "str", "sample, volume or unit"),
    UNIT_ID,
    Column("unit", "str", "what the unit is: `patient` or `image`"),
)

PROBABILITIES = Table(
    file="probabilities.tsv",
    folder="what `medssl predict` writes for a classification",
    meaning="A row per case.",
    columns=(
        *_CASE,
        Column("predicted", "str", "the most probable class; if a case may have several, all from 0.5"),
    ),
    families=(PROBABILITIES_OF_CLASSES,),
    unique=("case_id",),
)

VALUES = Table(
    file="values.tsv",
    folder="what `medssl predict` writes for a regression",
    meaning="A row per case.",
    columns=(*_CASE, Column(VALUE, "float64", "predicted", "the label's")),
    unique=("case_id",),
)

RISKS = Table(
    file="risks.tsv",
    folder="what `medssl predict` writes for a survival analysis",
    meaning="A row per case.",
    columns=(*_CASE, Column(RISK, "float64", "logarithm of the hazard, relative to that of the mean training case")),
    unique=("case_id",),
)

MASKS = Table(
    file="masks.tsv",
    folder="what `medssl predict` writes for a segmentation",
    meaning="A row per volume and class.",
    columns=(
        VOLUME_ID,
        Column("mask", "str", "on the grid of the given image, relative to this folder", form=INSIDE),
        Column("value", "int64", "of the class in the mask"),
        Column("class", "str", "its name"),
        Column("voxels", "int64", "of the class", "voxels"),
        Column("volume_ml", "float64", "of the class", "ml"),
    ),
    unique=("volume_id", "value"),
)


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """The classes with probabilities in a table, in the order of its columns."""
    return [name.removeprefix(PROBABILITY) for name in PROBABILITIES_OF_CLASSES.names(predictions)]
