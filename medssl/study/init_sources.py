"""The proposal for the images of one modality: a source, its split, the size of its views, and tasks on its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from medssl.core import plugins
from medssl.core.file_names import GRID_FORMATS, UNKNOWN
from medssl.core.found import FoundLabels, FoundPart
from medssl.core.label_table import FOLDERS
from medssl.core.options import Modality

FEW = 30
"""Below this many patients, scores on shares of them have wide intervals."""
FEWEST_TESTED = 5
"""With fewer patients than this, validation and testing would have one each."""
SHARE, LARGER_SHARE = 0.1, 0.2
BATCH = 64
SIDE = 224
SHARES = (0.05, 0.1, 0.25, 1.0)
NAMES = {"CT": "ct", "MR": "mr", "PT": "pt", UNKNOWN: "images"}


@dataclass(frozen=True)
class Task:
    """A downstream task on the labels of a source."""

    name: str
    kind: str
    found: FoundLabels
    fractions: tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """The images of one modality, which become a source and a cohort."""

    name: str
    path: str
    part: FoundPart
    modality: str | list[str] | None
    labels: str | None
    may_be_classes: bool
    """Whether folders may be classes, which only the user knows."""
    tasks: tuple[Task, ...]
    share: float
    """Of the patients for validation, and again for testing."""
    batch_size: int
    side: int
    """Of a view, in pixels."""

    @property
    def has_own_parts(self) -> bool:
        """Whether class folders or an NPZ may name the part of each image."""
        return self.part.num_volumes == 0 and any(found.labels is None for found in self.part.labels)


@dataclass(frozen=True)
class Proposal:
    """The content of a study file, and the reasons for what it leaves out."""

    sources: tuple[Source, ...]
    notes: tuple[str, ...]


def source_of(path: str, part: FoundPart, parts: Sequence[FoundPart]) -> Source:
    """The source for a part of a folder; `path`: of the folder, `parts`: all of them."""
    usable = [found for found in part.labels if found.certain]
    labels = next((found.labels for found in usable if found.labels), None)
    suffix = f"_{NAMES[part.modality]}" if len(parts) > 1 else ""
    share = SHARE if part.num_units >= FEW else LARGER_SHARE
    meant = [found for found in usable if found.labels in (None, labels)] if part.num_units >= FEWEST_TESTED else []
    tasks = tuple(_task(found, part, share, suffix) for found in meant)
    return Source(
        name=NAMES[part.modality],
        path=path,
        part=part,
        modality=_kept(part, parts),
        labels=labels if labels in (None, FOLDERS) else str(Path(path) / str(labels)),
        may_be_classes=not labels and any(not found.certain for found in part.labels),
        tasks=tasks,
        share=share if tasks else 0.0,
        batch_size=_batch_size(part),
        side=min(SIDE, max(32, -(-part.side // 32) * 32)),
    )


def _kept(part: FoundPart, parts: Sequence[FoundPart]) -> str | list[str] | None:
    """The modality that a source keeps; none if its files do not state theirs and the folder holds nothing else.

    With a list, names of NIfTI files count. With a list of one, a file whose name states nothing belongs to that one: if there
    are such files, a modality that the folder does not hold is added.
    """
    if not part.num_volumes or (part.modality == UNKNOWN and len(parts) == 1):
        return None
    found = {other.modality for other in parts}
    if not any(set(GRID_FORMATS) & set(other.formats) for other in parts):
        return part.modality
    if part.modality == UNKNOWN or UNKNOWN not in found:
        return [part.modality]
    return [part.modality, next(word for word in get_args(Modality) if word not in found)]


def _task(found: FoundLabels, part: FoundPart, share: float, suffix: str) -> Task:
    """A task, with those shares of the training labels that hold two patients or more."""
    kind = next(name for name in plugins.names("task") if plugins.find("task", name).constant("PREDICTS") == found.what)
    labelled = min(found.num_labelled, part.num_units) if part.num_volumes else part.num_units
    fractions = tuple(fraction for fraction in SHARES if fraction * labelled * (1 - 2 * share) >= 2)
    return Task(f"{found.what}{suffix}", kind, found, fractions or (1.0,))


def _batch_size(part: FoundPart) -> int:
    """A power of two, and at most half of the slices."""
    return min(BATCH, 1 << (max(2, part.num_slices // 2).bit_length() - 1))
