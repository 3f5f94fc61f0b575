"""Where the frames of a file lie and how their values are read: one by one in an enhanced multi-frame object."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import Any

from medssl.ingest.dicom.elements import Values, text
from medssl.ingest.dicom.fields import coded_word, decimal, finite
from medssl.ingest.dicom.tags import FRAME_GROUPS, SHARED_GROUPS
from medssl.ingest.refusal import Refusal

_FRAME_FIELDS = {
    "position": (0x00209113, 0x00200032),
    "orientation": (0x00209116, 0x00200037),
    "spacing": (0x00289110, 0x00280030),
    "slice_thickness": (0x00289110, 0x00180050),
    "slope": (0x00289145, 0x00281053),
    "intercept": (0x00289145, 0x00281052),
    "echo_time": (0x00189114, 0x00189082),
    "b_value": (0x00189117, 0x00189087),
    "temporal_position": (0x00209111, 0x00209128),
    "stack": (0x00209111, 0x00209056),
    "trigger_time": (0x00189118, 0x00209153),
    "ct_frame_type": (0x00189329, 0x00089007),
    "mr_frame_type": (0x00189226, 0x00089007),
    "pet_frame_type": (0x00189751, 0x00089007),
}
"""(functional group, tag in it) of what is read of a frame"""


@dataclass(slots=True)
class Frame:
    """Where one frame (or one tile of a mosaic) lies and how its values are read."""

    position: list[float] | None = None
    orientation: list[float] | None = None
    spacing: list[float] | None = None
    slope: float | None = None
    intercept: float | None = None
    echo_time: float | None = None
    b_value: float | None = None
    time: list[float] = field(default_factory=list)
    """Numbers that may separate time points, the surest first."""
    kind: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


def frames_of(values: Values, outer: Frame, num_frames: int, big: bool) -> tuple[list[Frame], float | None]:
    """A `Frame` per frame of an enhanced object, and the slice thickness in mm.

    What the per-frame group of a frame says counts, else the shared group, else `outer`, the top level of the file.

    Raises:
        Refusal: there are not as many frame descriptions as frames.
    """
    shared_items = values.get(SHARED_GROUPS, [])
    shared: Values = shared_items[0] if isinstance(shared_items, list) and shared_items else {}
    per_frame = values[FRAME_GROUPS]
    if not isinstance(per_frame, list) or len(per_frame) != num_frames:
        raise Refusal("corrupt", f"{len(per_frame)} frame descriptions for {num_frames} frames")
    frames = []
    for own in per_frame:
        pick = _Groups(own, shared, big)
        position = pick.numbers("position", 3)
        orientation = pick.numbers("orientation", 6)
        spacing = pick.numbers("spacing", 2)
        slope, intercept = pick.numbers("slope", 1), pick.numbers("intercept", 1)
        echo = pick.double("echo_time")
        temporal = pick.integer("temporal_position")
        trigger = pick.double("trigger_time")
        stack = pick.text("stack")
        b_value = pick.double("b_value")
        kinds = [pick.text(name) for name in ("ct_frame_type", "mr_frame_type", "pet_frame_type")]
        frames.append(
            Frame(
                position=position or outer.position,
                orientation=orientation or outer.orientation,
                spacing=spacing or outer.spacing,
                slope=slope[0] if slope else outer.slope,
                intercept=intercept[0] if intercept else outer.intercept,
                echo_time=echo,
                b_value=b_value,
                time=[float(t) for t in (temporal, trigger) if t is not None],
                kind="/".join([*(_words(k) for k in kinds if k), "stack" + _digits(stack)]),
            )
        )
    thickness = _Groups(per_frame[0], shared, big).numbers("slice_thickness", 1)
    return frames, thickness[0] if thickness else None


class _Groups:
    """Values of the functional groups of one frame: its own, else the shared ones."""

    def __init__(self, own: Values, shared: Values, big: bool) -> None:
        self.sources, self.order = (own, shared), ">" if big else "<"

    def raw(self, name: str) -> bytes | None:
        group, tag = _FRAME_FIELDS[name]
        for source in self.sources:
            items = source.get(group)
            if isinstance(items, list) and items and isinstance(items[0].get(tag), bytes):
                return items[0][tag]  # type: ignore[return-value]
        return None

    def text(self, name: str) -> str:
        return text(self.raw(name) or b"")

    def numbers(self, name: str, count: int) -> list[float] | None:
        return decimal(self.text(name), count)

    def double(self, name: str) -> float | None:
        raw = self.raw(name)
        return finite(struct.unpack(self.order + "d", raw)[0]) if raw is not None and len(raw) == 8 else None

    def integer(self, name: str) -> int | None:
        raw = self.raw(name)
        return struct.unpack(self.order + "I", raw)[0] if raw is not None and len(raw) == 4 else None


def _words(words: str) -> str:
    return "\\".join(coded_word(word) for word in words.split("\\"))


def _digits(word: str) -> str:
    return re.sub(r"\D", "", word)[:8]
