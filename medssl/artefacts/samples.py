"""`samples.parquet` of stage prepare, with a row per slice or image that every later stage uses; and `fingerprint.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from medssl.artefacts.column import ID, INSIDE, Column
from medssl.artefacts.document import Document, meant
from medssl.artefacts.schema import Table
from medssl.artefacts.volumes import KIND, SPLITS, SUBJECT_ID, UNIT, VOLUME_ID

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_ID = Column("sample_id", "str", "`<volume_id>-<index>`, the index in four digits or more", form=ID)

SAMPLES = Table(
    file="samples.parquet",
    folder="2_prepare/<source>",
    meaning="A row per slice of a volume, along the axis that it was acquired along, or per image of an image set.",
    columns=(
        SAMPLE_ID,
        VOLUME_ID,
        SUBJECT_ID,
        UNIT,
        KIND,
        Column("split", "str", "its part", choices=SPLITS),
        Column("array", "str", "the array of its volume, relative to this folder", form=INSIDE),
        Column("axis", "int8", "the axis along which slices are cut"),
        Column("index", "int32", "which plane along it"),
        Column("position_mm", "float32", "along the slice normal, RAS+; missing for images", "mm", nullable=True),
        Column("label", "str", "class that came with an image; what label files say is in `labels.parquet`", nullable=True),
        Column("foreground_frac", "float32", "share of its voxels above the low end of the lowest window", "0…1"),
        Column("fold", "int8", "the fold that tests it, from 0; only with `prepare.split.folds`", optional=True),
        Column(
            "label_order",
            "int32",
            "place of its unit in the order of labelling; only if the split file has one",
            nullable=True,
            optional=True,
        ),
    ),
    sorted_by=("volume_id", "index"),
    unique=("volume_id", "index"),
)


def axes_of(samples: pd.DataFrame) -> dict[str, int]:
    """The axis that each volume's slices are cut along, by volume id; `samples`: rows of the table."""
    rows = samples.drop_duplicates("volume_id")
    return {str(name): int(axis) for name, axis in zip(rows["volume_id"], rows["axis"], strict=True)}


class Folds(Document):
    """How a source is cross-validated."""

    folds: int = meant("how many folds there are; each is tested once")
    val_frac: float = meant("share of the units outside a fold that validate while it is tested", "0…1")
    units: list[int] = meant("how many units each fold has")


class Fingerprint(Document):
    """`fingerprint.json`: a source in numbers; quantiles are min, q05, q25, median, q75, q95, max."""

    FILE: ClassVar[str] = "fingerprint.json"
    FOLDER: ClassVar[str] = "2_prepare/<source>"
    MEANING: ClassVar[str] = "The source in numbers; quantiles are `min q05 q25 median q75 q95 max`, rounded for people."

    source: str = meant("its name in the study file")
    volumes: int = meant("how many volumes and image sets")
    samples: int = meant("how many slices and images")
    units: dict[str, int] = meant("how many of each unit: `patient`, `image`")
    splits: dict[str, dict[str, Any]] = meant("by part: volumes, samples, subjects, units")
    subjects_in_two_splits: int = meant("patients with slices in two parts; 0 unless a given split says so")
    modalities: dict[str, dict[str, Any]] = meant("by modality: counts, and quantiles of shape, spacing, values, windows")
    labels: dict[str, dict[str, int]] = meant("by class, how many samples in each part")
    cache: dict[str, Any] = meant("form, number, bytes of the arrays, and how many are links")
    split: Folds | None = meant("of a source with folds; absent from others", default=None)
    notes: list[str] = meant("warnings for the user, about modalities and the split; absent without any", default=[])
