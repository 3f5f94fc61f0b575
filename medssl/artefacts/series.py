"""What stage ingest writes: `series.tsv`, `rejected.tsv`, and beside each array `volume.json` and `images.parquet`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from medssl.artefacts.column import HASH, ID, Column
from medssl.artefacts.document import Document, Number, meant
from medssl.artefacts.schema import Table
from medssl.artefacts.volumes import KIND, MODALITIES, SUBJECT_ID, UNIT, VOLUME_ID

FORMATS = ("dicom", "nifti", "nrrd", "metaimage", "png", "npz")
DTYPES = ("int16", "float32", "uint8", "uint16")

SERIES = Table(
    file="series.tsv",
    folder="1_ingest/<source>",
    meaning="A row per accepted volume: a 4-D series is a row per time point, an image set a row per distinct image shape.",
    columns=(
        VOLUME_ID,
        Column("series_id", "str", "of the series or file", form=ID),
        SUBJECT_ID,
        UNIT,
        KIND,
        Column("format", "str", "of the source files (`png`: JPEG too)", choices=FORMATS),
        Column("modality", "str", "of the images; `OT`: another, or unknown", choices=MODALITIES),
        Column("shape", "list", "of the array; of images the last is their number", "voxels", shape=(3,), item="int"),
        Column("spacing_mm", "list", "voxel size along i, j, k; missing for images", "mm", nullable=True, shape=(3,)),
        Column("affine", "list", "from voxel (i, j, k) to RAS+; the identity for images", "mm", shape=(4, 4)),
        Column("dtype", "str", "of `image.npy`: int16 where values fit exactly", choices=DTYPES),
        Column("slope", "float64", "value = slope × stored + intercept (HU for CT)", "value per stored number"),
        Column("intercept", "float64", "see slope", "value"),
        Column("orientation_source", "str", "axis codes of the source grid, such as `LPS`; missing for images", nullable=True),
        Column("num_files", "int64", "source files that are in no earlier row; 0 for later time points of a file"),
        Column("bytes", "int64", "their size", "bytes"),
        Column("content_sha256", "str", "of the decoded array", form=HASH),
        Column("lossy", "bool", "whether the source had lossy compression"),
        Column("tilt_deg", "float64", "gantry tilt that was straightened", "°", nullable=True),
        Column("resampled", "bool", "whether values were interpolated (tilt, uneven slices)"),
        Column("time_index", "int64", "of a time point", nullable=True),
        Column("kernel", "str", "reconstruction kernel", nullable=True),
        Column("kvp", "float64", "tube voltage", "kV", nullable=True),
        Column("slice_thickness_mm", "float64", "as declared", "mm", nullable=True),
        Column("manufacturer_code", "str", "a word for the maker", nullable=True),
        Column("age_years", "int64", "of the patient", "years", nullable=True),
        Column("sex", "str", "of the patient", nullable=True),
        Column("label", "bool", "whether a mask or labels came with it"),
        Column("warnings", "list", "words of `medssl/ingest/codes.py` for what was accepted with a remark", item="str"),
    ),
    sorted_by=("volume_id",),
    unique=("volume_id",),
)

REJECTED = Table(
    file="rejected.tsv",
    folder="1_ingest/<source> and 1_ingest/<source>/labels",
    meaning="A row per group of files that was refused. `num_files` of both tables add up to the listing's count.",
    columns=(
        Column("item_id", "str", "keyed id of the group", form=ID),
        Column("code", "str", "why, a word of `medssl/ingest/codes.py`"),
        Column("sentence", "str", "why, in words"),
        Column("num_files", "int64", "files that are in no other row"),
        Column("bytes", "int64", "their size", "bytes"),
        Column("stage_of_check", "str", "where it was noticed: `scan`, `series`, `labels`, …"),
    ),
    sorted_by=("item_id",),
    unique=("item_id",),
)

IMAGES = Table(
    file="images.parquet",
    folder="1_ingest/<source>/volumes/<volume_id>",
    meaning="A row per image of an image set.",
    columns=(
        Column("index", "int64", "its place along the last axis of `image.npy`"),
        Column("image_id", "str", "keyed id of the image", form=ID),
        Column("label", "str", "class, if folders or the archive name one", nullable=True),
        Column("split", "str", "official part, if there is one", nullable=True),
        Column("subject_id", "str", "the patient, if a label table names one", nullable=True, form=ID),
    ),
    sorted_by=("index",),
    unique=("index",),
)


class VolumeFile(Document):
    """`volume.json`: the row of `series.tsv`, and how the array was derived from its source grid."""

    FILE: ClassVar[str] = "volume.json"
    FOLDER: ClassVar[str] = "1_ingest/<source>/volumes/<volume_id>"
    MEANING: ClassVar[str] = "All columns of `series.tsv` for the volume, with null for missing, and:"

    volume_id: str
    series_id: str
    subject_id: str | None
    unit: str
    kind: str
    format: str
    modality: str
    shape: list[int]
    spacing_mm: list[Number] | None
    affine: list[list[Number]]
    dtype: str
    slope: Number
    intercept: Number
    orientation_source: str | None
    num_files: int
    bytes: int
    content_sha256: str
    lossy: bool
    tilt_deg: Number | None
    resampled: bool
    time_index: int | None
    kernel: str | None
    kvp: Number | None
    slice_thickness_mm: Number | None
    manufacturer_code: str | None
    age_years: int | None
    sex: str | None
    label: bool
    warnings: list[str]
    source_shape: list[int] | None = meant("of the source grid; absent for images", "voxels", default=None)
    source_affine: list[list[Number]] | None = meant("from its voxels to RAS+", "mm", default=None)
    source_codes: str | None = meant("its axis codes", default=None)
    padded_voxels: int | None = meant("voxels outside the scanner's field, set to the lowest value", default=None)
    mask_labels: list[int] | None = meant("values that the mask beside the image holds; absent without one", default=None)


def read_series(path: Path | str) -> list[dict[str, Any]]:
    """The rows of `series.tsv` as plain values; lists are decoded, missing values are None.

    Raises:
        CorruptArtefactError: it is not such a table.
    """
    return SERIES.read_rows(path)
