"""Options of stage ingest: what is accepted from a source, and how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from medssl.core import plugins
from medssl.core.bounds import Count, Distinct, Fraction, OneOrMore
from medssl.core.file_names import GRID_FORMATS
from medssl.core.options import Modality, Options
from medssl.core.plugins import Plugin
from medssl.core.record_table import Kind
from medssl.core.written import in_yaml

HOLDS_FOR: dict[str, tuple[str, ...]] = {
    "tilt": ("dicom", *GRID_FORMATS),
    "uneven": ("dicom",),
    "derived": ("dicom",),
    "burned_in": ("dicom",),
    "no_space": GRID_FORMATS,
    "offset_hu": GRID_FORMATS,
    "masks": GRID_FORMATS,
    "subject_pattern": ("dicom", *GRID_FORMATS, "png"),
    "min_slices": ("dicom", *GRID_FORMATS),
}
"""The formats that an option of ingest applies to; an option without an entry applies to all."""
Offset = Annotated[float, Field(ge=-32768, le=32768)]
OF_MASKS = ("no_space", "masks")
"""Options that also apply to a folder of masks, whatever the format of the images."""


class _Checked(Options):
    def plugins(self) -> Iterator[Plugin]:
        """Every check runs on every file."""
        yield from super().plugins()
        yield from plugins.all_of("check")


class IngestOptions(_Checked):
    """What is accepted from a source, and how."""

    tilt: Literal["resample", "refuse"] = "resample"
    """Tilted slices (gantry tilt): straighten the stack, or refuse the series."""
    uneven: Literal["resample", "refuse"] = "refuse"
    """Unequal steps between slices: interpolate at the median step, or refuse the series."""
    derived: Literal["refuse", "accept"] = "refuse"
    """Reformatted and computed images."""
    burned_in: Literal["refuse", "accept"] = "refuse"
    """Images that may show the patient's name: they state it, or are described as screen saves or digitised film."""
    no_space: Literal["refuse", "pixdim"] = "refuse"
    """NIfTI without a valid affine: refuse it, or use only the voxel sizes."""
    modality: Literal["auto", "CT", "MR", "PT", "OT"] | OneOrMore[Modality] = "auto"
    """What is kept: one modality, or a list; the rest is set aside. Files that do not state theirs (NIfTI, pictures without
    volumes beside them) take the named one. With `auto` or a list, the name of a NIfTI file decides.
    """
    offset_hu: Offset = 0.0
    """Added to every value of a CT in NIfTI, NRRD or MetaImage; `-1024` for files that hold HU + 1024."""
    masks: str | None = None
    """Pattern of the names of masks beside their images, such as `{image}_gt`."""
    subject_pattern: str | None = None
    """Regular expression whose first group is the patient in a file's path within the source."""
    skip: Distinct[str] = []
    """Series to exclude, by `series_id`."""
    min_slices: Count = 3
    """Volumes with fewer slices are refused."""
    max_refused_frac: Fraction = 1.0
    """The stage stops when a larger share of the source's groups of files is refused."""
    shards: Count = 1
    """Number of jobs that share the conversion of the source."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that are kept; empty: all."""
        if self.modality == "auto":
            return ()
        return tuple(self.modality) if isinstance(self.modality, list) else (str(self.modality),)

    def without_effect(self, formats: Iterable[str], *, mask_folder: bool = False) -> dict[str, tuple[str, ...]]:
        """Options that differ from their defaults and apply to none of `formats`: option → the formats that it applies to.

        `mask_folder`: the source has a folder of masks beside its images.
        """
        found, usual = set(formats), IngestOptions()
        changed = [name for name in HOLDS_FOR if getattr(self, name) != getattr(usual, name)]
        idle = [name for name in changed if not found & set(HOLDS_FOR[name]) and not (mask_folder and name in OF_MASKS)]
        return {name: HOLDS_FOR[name] for name in idle}

    @field_validator("modality", mode="before")
    @classmethod
    def _modality(cls, given: Any) -> Any:
        several = isinstance(given, list) and given
        if not all(word in (*get_args(Modality), "auto") for word in (given if several else [given])) or (
            several and "auto" in given
        ):
            raise ValueError(f"{in_yaml(given)} is not a modality: write auto, CT, MR, PT, OT, or a list such as [CT, PT]")
        return given

    @model_validator(mode="after")
    def _offset_of_a_ct(self) -> IngestOptions:
        if self.offset_hu and self.modalities and "CT" not in self.modalities:
            raise ValueError(
                f"offset_hu {self.offset_hu:g} is added to CT alone, and modality {in_yaml(self.modality)} keeps none. "
                "Leave out offset_hu, or correct modality"
            )
        return self

    @field_validator("subject_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        try:
            groups = 1 if pattern is None else re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        if not groups:
            raise ValueError(f"{pattern!r} has no group; expected one in brackets for the patient, such as '(case\\d+)'")
        return pattern


class LabelFileOptions(_Checked):
    """How label files of a source are read."""

    masks: str | None = None
    """As in ingest: the pattern of the names of masks."""
    no_space: Literal["refuse", "pixdim"] = "refuse"
    """As in ingest, for masks in NIfTI."""
    groups: Distinct[str] = []
    """Columns of the label table whose values define subgroups."""


class RecordOptions(Options):
    """Which column of a source's records is read."""

    column: str
    """Its name."""
    kind: Kind | None = None
    """What it is, where the study file says so."""
