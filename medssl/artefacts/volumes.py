"""`volumes.tsv` of stage prepare: the only type of a volume, and the only conversion from stored numbers to network input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.artefacts.column import ID, INSIDE, Column
from medssl.artefacts.schema import Table
from medssl.core.errors import CorruptArtefactError
from medssl.volume.intensity import values_of, windowed

UNITS = ("patient", "image")
KINDS = ("volume", "images")
MODALITIES = ("CT", "MR", "PT", "OT")
SPLITS = ("train", "val", "test")

VOLUME_ID = Column("volume_id", "str", "the volume, or the set of images of one shape", form=ID)
SUBJECT_ID = Column("subject_id", "str", "the patient, if the source names one", nullable=True, form=ID)
UNIT = Column("unit", "str", "what the split keeps together: a `patient` with all images, or an `image`", choices=UNITS)
KIND = Column("kind", "str", "`volume`: slices are neighbours; `images`: they are not", choices=KINDS)

VOLUMES = Table(
    file="volumes.tsv",
    folder="2_prepare/<source>",
    meaning="A row per volume that is ready for training.",
    columns=(
        VOLUME_ID,
        Column("series_id", "str", "the series that it came from", nullable=True, form=ID),
        SUBJECT_ID,
        UNIT,
        KIND,
        Column("modality", "str", "of the images", choices=MODALITIES),
        Column("split", "str", "its part; missing for an image set whose images differ", nullable=True, choices=SPLITS),
        Column("array", "str", "its array, relative to this folder", form=INSIDE),
        Column("mask", "str", "the mask that came with it on the same grid, relative to this folder", nullable=True, form=INSIDE),
        Column("shape", "list", "of the array; of images the last is their number", "voxels", shape=(3,), item="int"),
        Column("spacing_mm", "list", "voxel size along i, j, k; missing for images", "mm", nullable=True, shape=(3,)),
        Column("affine", "list", "from voxel (i, j, k) to RAS+, of voxel centres", "mm", nullable=True, shape=(4, 4)),
        Column("slope", "float64", "value = slope × stored + intercept", "value per stored number"),
        Column("intercept", "float64", "see slope", "value"),
        Column("window_low", "list", "the value that maps to 0, per channel", "value"),
        Column("window_high", "list", "the value that maps to 1, per channel", "value"),
        Column(
            "window_percentiles",
            "list",
            "the percentiles of its own values above the lowest that set its window; missing for CT and pictures, whose window "
            "is given, and absent if all volumes are such",
            "%",
            nullable=True,
            optional=True,
            shape=(2,),
        ),
    ),
    sorted_by=("volume_id",),
    unique=("volume_id",),
)


@dataclass(frozen=True)
class Volume:
    """A prepared volume, or a set of images of one shape.

    array, mask: paths, joined to the folder of their table; shape: of the array; affine: 4×4 to RAS+ mm; low, high: the window
    of each channel in value units (HU for CT), low below high; source: the folder of its table; percentiles: those of its own
    values that set the window, None if the window was given (CT, pictures).
    """

    volume_id: str
    series_id: str | None
    subject_id: str | None
    unit: str
    kind: str
    modality: str
    split: str | None
    array: Path
    mask: Path | None
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    affine: tuple[tuple[float, ...], ...] | None
    slope: float
    intercept: float
    low: tuple[float, ...]
    high: tuple[float, ...]
    source: str = ""
    percentiles: tuple[float, float] | None = None

    @property
    def is_volume(self) -> bool:
        """Whether its slices are neighbours."""
        return self.kind == "volume"

    @property
    def num_channels(self) -> int:
        """One per window."""
        return len(self.low)

    @property
    def to_ras(self) -> np.ndarray:
        """From voxel (i, j, k) to RAS+ mm, float64 `(4, 4)`; the identity if unknown."""
        return np.eye(4) if self.affine is None else np.array(self.affine, dtype=np.float64)

    def values(self, stored: Any, dtype: Any = np.float32) -> np.ndarray:
        """The values (HU for CT) of stored numbers, in the same shape, computed in `dtype`."""
        return np.asarray(values_of(np.asarray(stored, dtype=dtype), self.slope, self.intercept))

    def seen(self, stored: Any, dtype: Any = np.float32) -> np.ndarray:
        """Stored numbers as network input: `(c, *shape)` in [0, 1], one channel per window, computed in `dtype`."""
        values = self.values(stored, dtype)
        return np.stack([windowed(values, low, high) for low, high in zip(self.low, self.high, strict=True)])

    def seen_first(self, stored: Any, dtype: Any = np.float32) -> np.ndarray:
        """The same through the window of the first channel only, in the shape of `stored`."""
        return np.asarray(windowed(self.values(stored, dtype), self.low[0], self.high[0]))


def read_volumes(path: Path | str) -> list[Volume]:
    """The volumes of a table, in its order.

    Raises:
        CorruptArtefactError: it is not a table of volumes, or a window is empty.
    """
    folder = Path(path).parent
    return [_volume(row, folder, path) for row in VOLUMES.read_rows(path)]


def write_volumes(path: Path | str, volumes: Iterable[Volume]) -> None:
    """Write the table of some volumes, whose arrays and masks lie in its folder or below.

    Raises:
        CorruptArtefactError: an array is elsewhere, or the volumes do not fit the table.
    """
    VOLUMES.write_rows(path, [_row(volume, Path(path).parent) for volume in volumes])


def _volume(row: dict[Any, Any], folder: Path, where: Path | str) -> Volume:
    low, high = (tuple(map(float, row[name])) for name in ("window_low", "window_high"))
    if not low or len(low) != len(high) or not all(a < b for a, b in zip(low, high, strict=True)):
        raise CorruptArtefactError(
            f"{where}, {row['volume_id']}: got the windows {list(low)} to {list(high)}; expected one low end below its high end "
            "for each channel. Delete the receipt of its folder and run the same command again."
        )
    i, j, k = row["shape"]
    spacing, affine = row["spacing_mm"], row["affine"]
    same = ("volume_id", "series_id", "subject_id", "unit", "kind", "modality", "split")
    return Volume(
        **{name: row[name] for name in same},
        array=folder / row["array"],
        mask=None if row["mask"] is None else folder / row["mask"],
        shape=(i, j, k),
        spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        affine=None if affine is None else tuple(tuple(map(float, line)) for line in affine),
        slope=float(row["slope"]),
        intercept=float(row["intercept"]),
        low=low,
        high=high,
        source=folder.name,
        percentiles=None if (ends := row.get("window_percentiles")) is None else (float(ends[0]), float(ends[1])),
    )


def _row(volume: Volume, folder: Path) -> dict[str, Any]:
    def below(path: Path) -> str:
        if not path.is_relative_to(folder):
            raise CorruptArtefactError(f"{volume.volume_id}: its array {path} is not below {folder}, where its table is.")
        return path.relative_to(folder).as_posix()

    same = ("volume_id", "series_id", "subject_id", "unit", "kind", "modality", "split", "slope", "intercept")
    row = {name: getattr(volume, name) for name in same} | {
        "array": below(volume.array),
        "mask": None if volume.mask is None else below(volume.mask),
        "shape": list(volume.shape),
        "spacing_mm": None if volume.spacing_mm is None else list(volume.spacing_mm),
        "affine": None if volume.affine is None else [list(line) for line in volume.affine],
        "window_low": list(volume.low),
        "window_high": list(volume.high),
    }
    return row if volume.percentiles is None else row | {"window_percentiles": list(volume.percentiles)}
