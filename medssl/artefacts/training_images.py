"""What a contract says about the images that a network was trained on: their window rule, and the limits for new images."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from medssl.artefacts.document import Document, meant
from medssl.artefacts.volumes import Volume
from medssl.core.errors import StudyError
from medssl.core.file_names import UNKNOWN

HU, PERCENTILES, RANGE = "hu", "percentiles", "range"
SPACING_FACTOR = 2**0.5
"""How far beyond its training spacings a network is used: until a pixel has twice, or half, the area.

nnU-Net trains with scales of 0.7 to 1.4 (Isensee et al., Nat Methods 2021;18:203), and random crops of pre-training vary more.
"""
ROUNDING = 1e-3
"""Relative tolerance for spacings in headers."""


@dataclass(frozen=True)
class Difference:
    """How a volume differs from those that a network was trained on."""

    volume_id: str
    what: str
    found: str
    expected: str


class Window(Document):
    """The values that the network sees as 0 and 1: numbers if all volumes share them, and always the rule."""

    low: list[float] | None = meant(
        "the value that maps to 0, per channel: of CT, or of pictures; null if all volumes have their own windows",
        "value (HU for CT)",
    )
    high: list[float] | None = meant("the value that maps to 1, likewise", "value (HU for CT)")
    differs_by_volume: bool = meant("whether each volume has its own window")
    rules: list[str] = meant(
        "how windows were chosen: `hu`, from low to high (CT); `percentiles`, of each volume's own values; `range`, pictures, "
        "the whole range of their type. Absent from contracts of earlier versions",
        default=[],
    )
    percentiles: list[float] | None = meant(
        "percentiles of a volume's values above its lowest that map to 0 and 1; null if no volume has such a "
        "window, or if its sources differ",
        "%",
        default=None,
    )

    @classmethod
    def of(cls, volumes: Sequence[Volume]) -> Self:
        """The window of some volumes."""
        rules = {volume.volume_id: rule_of(volume) for volume in volumes}
        own = [volume for volume in volumes if rules[volume.volume_id] == PERCENTILES]
        of_ct = [volume for volume in volumes if rules[volume.volume_id] == HU]
        fixed = {(volume.low, volume.high) for volume in of_ct or volumes} if len(own) < len(volumes) else set()
        low, high = next(iter(fixed)) if len(fixed) == 1 else (None, None)
        pairs = {volume.percentiles or () for volume in own}
        chosen: tuple[float, ...] = next(iter(pairs)) if len(pairs) == 1 else ()
        return cls(
            low=None if low is None else list(low),
            high=None if high is None else list(high),
            differs_by_volume=bool(own) or len({(volume.low, volume.high) for volume in volumes}) > 1,
            rules=sorted(set(rules.values())),
            percentiles=list(chosen) or None,
        )

    @property
    def fixed(self) -> tuple[list[float], list[float]] | None:
        """The one window of CT or of pictures; None if there is none, or if an earlier version wrote that of one volume."""
        if self.low is None or self.high is None or (self.differs_by_volume and not self.rules):
            return None
        return self.low, self.high

    @property
    def in_words(self) -> str:
        """The contract's `window` in words, for a sentence."""
        words = {
            HU: f"{self.low} to {self.high} HU" if self.low else "several windows in HU",
            PERCENTILES: f"each volume's {' to '.join(map(str, self.percentiles or ()))} percentiles".replace("  ", " own "),
            RANGE: "the whole range of a picture's type",
        }
        return " or ".join(words[rule] for rule in self.rules) or f"{self.low} to {self.high}"

    def of_volume(self, volume: Volume) -> tuple[list[float], list[float]] | None:
        """The window that the rule gives a prepared volume; None if it is the volume's own."""
        applies = not self.rules or (rule_of(volume) == HU and HU in self.rules)
        return self.fixed if applies else None

    def difference(self, volume: Volume) -> Difference | None:
        """How the window of a prepared volume violates the rule; None if it does not, or if no rule is known."""
        rule, own = rule_of(volume), f"{list(volume.low)} to {list(volume.high)}"
        if rule == PERCENTILES and volume.percentiles:
            own = f"its {volume.percentiles[0]} to {volume.percentiles[1]} percentiles"
        if not self.rules:
            alike = self.fixed is None or self.fixed == (list(volume.low), list(volume.high))
        elif rule == HU:
            alike = HU in self.rules and self.fixed in (None, (list(volume.low), list(volume.high)))
        elif rule == PERCENTILES:
            pair = volume.percentiles or self.percentiles
            alike = PERCENTILES in self.rules and (self.percentiles is None or list(pair or []) == self.percentiles)
        else:
            alike = RANGE in self.rules
        return None if alike else Difference(volume.volume_id, "window", own, self.in_words)


def rule_of(volume: Volume) -> str:
    """How prepare chose the window of a volume."""
    if volume.percentiles is not None:
        return PERCENTILES
    if not volume.is_volume and _is_whole_range(volume):
        return RANGE
    return HU if volume.modality == "CT" else PERCENTILES


def _is_whole_range(volume: Volume) -> bool:
    ends = [(volume.intercept, volume.intercept + volume.slope * top) for top in (255.0, 65535.0)]
    return (volume.low[0], volume.high[0]) in [(min(pair), max(pair)) for pair in ends]


class TrainingImages(Document):
    """What the images that a network was trained on were like; new images are compared with it."""

    modalities: dict[str, int] = meant("how many volumes and image sets of each modality")
    slice_axes: list[int] = meant("axes along which slices of volumes were cut; empty if there were only images")
    spacing_low_mm: list[float] | None = meant("smallest voxel size along i, j, k; null for images", "mm")
    spacing_high_mm: list[float] | None = meant("largest voxel size, likewise", "mm")

    @classmethod
    def of(cls, volumes: Sequence[Volume], axes: Mapping[str, int]) -> Self:
        """From some volumes; `axes`: by volume id the axis that its slices are cut along."""
        spacings = [volume.spacing_mm for volume in volumes if volume.is_volume and volume.spacing_mm is not None]
        along = list(zip(*spacings, strict=True))
        return cls(
            modalities=dict(sorted(Counter(volume.modality for volume in volumes).items())),
            slice_axes=sorted({axes[volume.volume_id] for volume in volumes if volume.is_volume}),
            spacing_low_mm=[min(sizes) for sizes in along] or None,
            spacing_high_mm=[max(sizes) for sizes in along] or None,
        )

    @property
    def kept(self) -> list[str]:
        """The modalities that new images may have, for `ingest.modality`; empty if unknown."""
        return [] if UNKNOWN in self.modalities else sorted(self.modalities)

    def differences(self, volumes: Iterable[Volume], axes: Mapping[str, int], *, planes: bool, depth: bool) -> list[Difference]:
        """How each volume differs from the training images; unknown properties are not compared.

        Args:
            volumes: as they were prepared.
            axes: by volume id the axis that its slices are cut along.
            planes: whether the network sees slices, so that their axis matters.
            depth: whether it sees several slices at a time, so that their distance matters too.
        """
        found = []
        for volume in volumes:
            own = volume.volume_id
            if self.kept and volume.modality not in self.modalities:
                found.append(Difference(own, "modality", volume.modality, " or ".join(self.kept)))
            if volume.is_volume and not self.slice_axes:
                found.append(Difference(own, "kind of image", f"'volume of {volume.modality}'", "pictures alone"))
            if not volume.is_volume or not self.slice_axes:
                continue
            axis = axes[own]
            if planes and axis not in self.slice_axes:
                expected = " or ".join("ijk"[one] for one in self.slice_axes)
                found.append(Difference(own, "slice axis (i: sagittal, j: coronal, k: axial)", "ijk"[axis], expected))
            elif volume.spacing_mm is not None and self.spacing_low_mm is not None and self.spacing_high_mm is not None:
                seen = [one for one in range(3) if depth or one != axis]
                ranges = [(self.spacing_low_mm[one], self.spacing_high_mm[one]) for one in seen]
                sizes = [volume.spacing_mm[one] for one in seen]
                if not all(_is_in_range(size, low, high) for size, (low, high) in zip(sizes, ranges, strict=True)):
                    names = "".join("ijk"[one] for one in seen)
                    expected = " × ".join(f"{low:.3g}" if low == high else f"{low:.3g}–{high:.3g}" for low, high in ranges)
                    text = " × ".join(f"{size:.3g}" for size in sizes)
                    found.append(Difference(own, f"spacing along {', '.join(names)} in mm", text, expected))
        return found


def _is_in_range(size: float, low: float, high: float) -> bool:
    factor = SPACING_FACTOR * (1 + ROUNDING)
    return low / factor <= size <= high * factor


def refuse_or_warn(found: Sequence[Difference], learner: str, *, force: bool) -> None:
    """Refuse volumes that differ from the training images of `learner` (`the model`); with `force`, warn on the screen.

    Raises:
        StudyError: what was found, what is expected, how many volumes it concerns, what to do.
    """
    firsts: dict[str, Difference] = {}
    for one in found:
        firsts.setdefault(one.what, one)
    counts = Counter(one.what for one in found)
    parts = [
        f"{one.what} {one.found} of {one.volume_id}{f' and {counts[what] - 1} more' if counts[what] > 1 else ''}, where "
        f"{learner} was trained on {one.expected}"
        for what, one in firsts.items()
    ]
    text = "; ".join(parts)
    if force:
        print(f"medssl: warning: {text}: the results may be meaningless.", file=sys.stderr, flush=True)
        return
    raise StudyError(
        f"{text[:1].upper()}{text[1:]}. Leave such images out, prepare them as its contract.json says, or accept them "
        "with --force (in Python: force=True)."
    )
