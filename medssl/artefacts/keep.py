"""What stage reduce writes: descriptors of a cohort, an arm's decision about each slice, and the leaks found."""

from __future__ import annotations

from typing import Any, ClassVar

from medssl.artefacts.column import ID, Column
from medssl.artefacts.document import Document, Number, meant
from medssl.artefacts.samples import SAMPLE_ID
from medssl.artefacts.schema import Family, Table
from medssl.artefacts.volumes import KIND, SUBJECT_ID, VOLUME_ID

HASHES = ("ahash", "dhash", "phash", "whash")
REASONS = ("kept", "duplicate", "rank", "budget", "leak")
HOW = ("id", "patient", "slice", "volume", "same volume")

DESCRIPTORS = Table(
    file="descriptors.parquet",
    folder="3_reduce/<cohort>",
    meaning="A row per training slice of the cohort.",
    columns=(
        SAMPLE_ID,
        VOLUME_ID,
        SUBJECT_ID,
        KIND,
        Column("index", "int32", "which plane of its volume"),
        Column("position_mm", "float32", "along the slice normal, RAS+; missing for images", "mm", nullable=True),
        Column("entropy", "float64", "of its windowed values", "bits"),
    ),
    families=tuple(
        Family(f"{name}_", Column("<size>_<word>", "uint64", "64 bits of a hash; `_per_slice` at the end: of its own grey range"))
        for name in HASHES
    ),
    unique=("sample_id",),
)

KEEP = Table(
    file="keep.parquet",
    folder="3_reduce/<cohort>/<arm>",
    meaning="A row per training slice of the cohort: whether runs of the arm see it.",
    columns=(
        SAMPLE_ID,
        Column("keep", "bool", "whether it is kept"),
        Column("reason", "str", "why", choices=REASONS),
        Column("twin", "str", "the kept slice that represents a dropped one; missing if none does", nullable=True, form=ID),
        Column("distance", "float32", "to its twin, in the reducer's own measure", nullable=True),
    ),
    sorted_by=("sample_id",),
    unique=("sample_id",),
)

LEAKAGE = Table(
    file="leakage.parquet",
    folder="3_reduce/<cohort>/leakage",
    meaning="A row per pair of a downstream validation or test image and a slice of the pool that must not be used for training.",
    columns=(
        Column("query_id", "str", "sample id of the downstream image", form=ID),
        Column("pool_id", "str", "sample id of the slice in the pool", form=ID),
        Column(
            "how",
            "str",
            "`id`: one sample; `patient`: one patient; `slice`, `volume`: similar pixels; `same volume`: in a matched volume",
            choices=HOW,
        ),
        Column("score", "float32", "similarity of the pixels; 1 for `id` and `patient`", "0…1"),
    ),
    sorted_by=("query_id", "pool_id", "how"),
)


class Curve(Document):
    """The kept share as a function of the threshold."""

    threshold: list[Number] = meant("thresholds tried on some volumes")
    kept_frac: list[Number] = meant("share of slices that each keeps", "0…1")


class Summary(Document):
    """`summary.json` of an arm."""

    FILE: ClassVar[str] = "summary.json"
    FOLDER: ClassVar[str] = "3_reduce/<cohort>/<arm>"
    MEANING: ClassVar[str] = "What an arm did."

    reducer: str = meant("its plug-in")
    options: dict[str, Any] = meant("of the reducer")
    traversal: str | None = meant("the order in which pairs were compared; null for reducers that rank")
    budget: dict[str, Any] = meant("what the study asks for: `threshold`, `keep_frac` or `match`")
    threshold: Number | None = meant("the threshold in use", "the reducer's measure")
    count: int | None = meant("how many slices were asked for; null if a threshold decides")
    slices: int = meant("how many there are")
    volumes: int = meant("how many volumes and image sets they belong to")
    kept: int = meant("how many are kept")
    kept_frac: Number = meant("as a share", "0…1")
    reasons: dict[str, int] = meant("how many slices by reason")
    curve: Curve | None = meant("for reducers that compare pairs", default=None)


class Leaks(Document):
    """`leakage.json` of a cohort."""

    FILE: ClassVar[str] = "leakage.json"
    FOLDER: ClassVar[str] = "3_reduce/<cohort>/leakage"
    MEANING: ClassVar[str] = "What the firewall did. `pairs` and `nearest` are rows of `leakage.parquet`'s columns, for pictures."

    queries: int = meant("downstream validation and test images")
    queries_found: int = meant("how many of them are in the pool")
    pool: int = meant("slices of the pool")
    pool_excluded: int = meant("how many of them are excluded")
    how: dict[str, int] = meant("pairs by how they were found")
    policy: str = meant("`exclude`, `report` or `stop`")
    look_up: str = meant("`pixels`: by id, patient and pixels; `ids`: by id and patient alone", default="pixels")
    same: Number = meant("the similarity from which two images count as the same", "0…1")
    pairs: list[dict[str, Any]] = meant("some of those found, from the least similar to the most")
    nearest: list[dict[str, Any]] = meant("the most similar pairs below the limit; `how` is `nearest`")
