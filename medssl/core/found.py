"""What a look at a folder finds, as stage ingest hands it to the study file that is proposed for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FoundLabels:
    """Labels of some images, and where they are."""

    what: Literal["classes", "masks"]
    labels: str | None
    """Path within the folder, or `folders`; None where they come with the images."""
    num_labelled: int = 0
    classes: tuple[str, ...] = ()
    """Empty where they are not known before the images are read."""
    several: bool = False
    """Whether one image may have several classes."""
    certain: bool = True
    """False where folders may be classes, or patients."""


@dataclass(frozen=True)
class FoundPart:
    """The images of one modality."""

    modality: str
    formats: tuple[str, ...]
    num_volumes: int
    """0 where there are pictures alone."""
    num_slices: int
    num_units: int
    unit: str
    """`patient`; `image` where the images name no patients."""
    num_scans: int
    """Volumes, or pictures."""
    side: int
    """The longer side of a typical slice, in pixels."""
    labels: tuple[FoundLabels, ...]


@dataclass(frozen=True)
class Found:
    """What a folder holds."""

    parts: tuple[FoundPart, ...]
    """By modality, the one of most slices first."""
    notes: tuple[str, ...]
    """Sentences about label files, and images, that were found and not taken."""
