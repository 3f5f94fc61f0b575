"""Options of stage ingest: what is accepted from a source, and how."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import field_validator

from medssl.core import plugins
from medssl.core.bounds import Count, Distinct, Fraction
from medssl.core.options import Options
from medssl.core.plugins import Plugin


class _Checked(Options):
    def plugins(self) -> Iterator[Plugin]:
        """Every check is made of every file."""
        yield from super().plugins()
        yield from plugins.all_of("check")


class IngestOptions(_Checked):
    """What is accepted from a source, and how."""

    tilt: Literal["resample", "refuse"] = "resample"
    """Slices that lean (gantry tilt): straighten the stack, or refuse the series."""
    uneven: Literal["resample", "refuse"] = "refuse"
    """Steps between slices that are not equal: interpolate at the median step, or refuse the series."""
    derived: Literal["refuse", "accept"] = "refuse"
    """Reformatted and computed images."""
    no_space: Literal["refuse", "pixdim"] = "refuse"
    """NIfTI without a valid affine: refuse it, or take the voxel sizes alone."""
    modality: Literal["auto", "CT", "MR", "PT", "OT"] = "auto"
    """The modality of formats that do not state theirs (NIfTI); `auto` reads it from the file name."""
    masks: str | None = None
    """Pattern of the names of masks that lie beside their images, such as `{image}_gt`."""
    subject_pattern: str | None = None
    """Regular expression whose first group is the patient in a file's name."""
    skip: Distinct[str] = []
    """Series to leave out, by `series_id`."""
    min_slices: Count = 3
    """Volumes with fewer slices are refused."""
    max_refused_frac: Fraction = 1.0
    """The stage stops when a larger share of the source's groups of files is refused."""
    shards: Count = 1
    """Jobs that the conversion of the source is divided into."""

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
    """Columns of the label table whose values make subgroups."""
