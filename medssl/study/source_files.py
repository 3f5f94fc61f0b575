"""The files of a source, and what their names show before any is opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medssl.core.file_names import Pairing, pair_masks
from medssl.core.label_table import FOLDERS, LabelTable, is_label_table, read_label_table
from medssl.core.listing import Stamped, stamped
from medssl.core.patient_names import subjects_of
from medssl.ingest.options import IngestOptions

PICTURE, GRID, NPZ, BESIDE, OTHER = "picture", "NIfTI, NRRD or MetaImage", "NPZ", "beside", "other"
"""Kinds of files by name: `beside` is never an image; `other` may be DICOM, which has any suffix or none."""
SUFFIXES = {
    **dict.fromkeys(("png", "jpg", "jpeg"), PICTURE),
    **dict.fromkeys(("nii", "gz", "nrrd", "nhdr", "mha", "mhd"), GRID),
    "npz": NPZ,
    **dict.fromkeys(("csv", "tsv", "txt", "json", "md", "yaml", "yml", "xml", "html", "pdf"), BESIDE),
    **dict.fromkeys(("xls", "xlsx", "doc", "docx", "bval", "bvec", "tif", "tiff", "bmp", "raw", "zraw"), BESIDE),
}


def kind_of(name: str) -> str:
    """The kind of a file by its suffix."""
    _, dot, suffix = name.rpartition(".")
    return SUFFIXES.get(suffix.lower(), OTHER) if dot else OTHER


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source, listed once, without its label files."""

    found: list[Stamped]
    ingest: IngestOptions
    labels: str | None = None
    """As the study file has them."""

    @classmethod
    def of(cls, source: str, path: str, labels: str | None, ingest: IngestOptions, *, records: str | None = None) -> SourceFiles:
        """The files below a path, without labels and records.

        Raises:
            StudyError: the path does not exist.
        """
        found = stamped(source, path)
        if records is not None:
            table = Path(records).absolute()
            found = [(row, time) for row, time in found if Path(path).absolute() / row[0] != table]
        if labels in (None, FOLDERS):
            return cls(found, ingest, labels)
        root, own = Path(path).absolute(), Path(str(labels)).absolute()
        if root.is_relative_to(own):
            return cls([], ingest, labels)
        if own.is_relative_to(root):
            inside = own.relative_to(root).as_posix()
            found = [(row, time) for row, time in found if row[0] != inside and not row[0].startswith(f"{inside}/")]
        return cls(found, ingest, labels)

    @cached_property
    def table(self) -> LabelTable | None:
        """The label table; None if labels are missing or not a table.

        Raises:
            StudyError: it cannot be read.
        """
        given = self.labels
        return read_label_table(given) if given and is_label_table(given) and Path(given).is_file() else None

    @cached_property
    def names(self) -> list[str]:
        """Relative names."""
        return [row[0] for row, _ in self.found]

    @cached_property
    def _kinds(self) -> frozenset[str]:
        ends = {name[-5:] for name in self.names}  # a few, as long as the longest known suffix
        return frozenset(kind_of(end) for end in ends)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of the files, without those beside the images."""
        return self._kinds - {BESIDE}

    def all_are(self, *kinds: str) -> bool:
        """Whether there are images, all of these kinds."""
        return bool(self.kinds) and self.kinds <= set(kinds)

    def named(self, *kinds: str) -> list[str]:
        """The files of some kinds."""
        return self.names if self._kinds <= set(kinds) else [name for name in self.names if kind_of(name) in kinds]

    def masks(self, given: dict[str, str]) -> Pairing:
        """The pairs of mask and image, as ingest makes them, by number in `named(GRID)`. `given`: by a label table."""
        return self._paired(given) if given else self._pairing

    @cached_property
    def _pairing(self) -> Pairing:
        return self._paired({})

    def _paired(self, given: dict[str, str]) -> Pairing:
        return pair_masks(self.named(GRID), self.ingest.masks, given, beside=self.kinds != {GRID})

    def scans(self, given: dict[str, str]) -> list[str]:
        """The volumes on a grid that are not masks."""
        names, pairing = self.named(GRID), self.masks(given)
        several: Iterable[int] = (mask for masks in pairing.several.values() for mask in masks)
        masks = {*pairing.masks.values(), *several, *pairing.orphans, *pairing.unchosen}
        return [name for number, name in enumerate(names) if number not in masks]

    def subjects_by_name(self, files: Iterable[str]) -> dict[str, str]:
        """The patients that names show to ingest: of a volume on a grid always, of a picture by `subject_pattern` alone.

        Raises:
            StudyError: `subject_pattern` does not fit a name.
        """
        pattern = self.ingest.subject_pattern
        kinds = (GRID, PICTURE) if pattern else (GRID,)
        return subjects_of([name for name in files if kind_of(name) in kinds], pattern)
