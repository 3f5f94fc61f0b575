"""What label files say about a source: `labels.parquet` and `labels.json`, and how they are joined to the table of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from medssl.artefacts.column import INSIDE, Column
from medssl.artefacts.document import Document, meant
from medssl.artefacts.schema import Family, Table
from medssl.artefacts.volumes import VOLUME_ID
from medssl.core.label_table import EVENT

if TYPE_CHECKING:
    import pandas as pd

GROUP = "group_"
"""Prefix of the columns whose values define subgroups."""

GROUPS = Family(GROUP, Column("<column>", "str", "value of a column of the label table that makes subgroups", nullable=True))

LABELS = Table(
    file="labels.parquet",
    folder="1_ingest/<source>/labels",
    meaning="A row per labelled volume or image. Fine-tuning reads it, and objectives that look at labels; nothing before waits.",
    columns=(
        VOLUME_ID,
        Column("index", "int32", "of an image in its set; missing for a volume", nullable=True),
        Column("label", "str", "class, several joined by a vertical bar; or a number", nullable=True),
        Column(EVENT, "str", "with a time as label: 1 if the event happened, 0 if censored", nullable=True, optional=True),
        Column("mask", "str", "on the grid of ingest's `image.npy`, relative to this folder", nullable=True, form=INSIDE),
    ),
    families=(GROUPS,),
    sorted_by=("volume_id", "index"),
    unique=("volume_id", "index"),
)


class LabelCounts(Document):
    """`labels.json`."""

    FILE: ClassVar[str] = "labels.json"
    FOLDER: ClassVar[str] = "1_ingest/<source>/labels"
    MEANING: ClassVar[str] = "How much of the source is labelled."

    items: int = meant("volumes and images that a label could be for")
    labelled: int = meant("how many of them have one")
    strangers: int = meant("label entries or files that match none of them")
    names: dict[str, str] = meant("mask value → class name, if a folder of masks names its classes")

    @property
    def unlabelled_in_words(self) -> str:
        """`2 of 40 volumes and images have no label`; empty if all have one."""
        left = self.items - self.labelled
        have = "has" if left == 1 else "have"
        return f"{left} of {self.items} volumes and images {have} no label" if left else ""

    @property
    def strangers_in_words(self) -> str:
        """`3 label files or entries were refused or are for none of the images`; empty if all were matched."""
        were, have = ("was", "is") if self.strangers == 1 else ("were", "are")
        entries = "label file or entry" if self.strangers == 1 else "label files or entries"
        return f"{self.strangers} {entries} {were} refused or {have} for none of the images" if self.strangers else ""


def with_given_labels(samples: pd.DataFrame, given: pd.DataFrame) -> pd.DataFrame:
    """The table of samples with the content of label files: of an image by its index, of a volume for all its slices.

    A label file overrides labels that came with the images. Columns `event` and `group_<name>` are added.

    Args:
        samples: the table of the prepare stage.
        given: the table `LABELS`.
    """
    import pandas as pd

    found = {}
    for name in ["label", *([EVENT] if EVENT in given else []), *group_columns(given)]:
        value = of_samples(samples, given, name)
        if name in samples:
            value = np.where(pd.notna(value), value, samples[name].to_numpy(dtype=object))
            value[pd.isna(value)] = None
        found[name] = value
    return samples.assign(**{name: pd.Series(value, index=samples.index, dtype=object) for name, value in found.items()})


def of_samples(samples: pd.DataFrame, given: pd.DataFrame, column: str) -> np.ndarray:
    """A column of a table with `volume_id` and `index` for each row of the table of samples; None where it has no value.

    A row with an index is for that image, a row without for all slices of its volume.
    """
    import pandas as pd

    of_image, of_volume = given[given["index"].notna()], given[given["index"].isna()]
    places = pd.MultiIndex.from_arrays([samples["volume_id"], samples["index"]])
    own = of_image.set_index(["volume_id", "index"])[column].reindex(places).to_numpy(dtype=object)
    whole = samples["volume_id"].map(of_volume.set_index("volume_id")[column]).to_numpy(dtype=object)
    value = np.where(pd.notna(own), own, whole)
    value[pd.isna(value)] = None
    return value


def group_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table that define subgroups."""
    return GROUPS.names(table)
