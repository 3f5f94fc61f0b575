"""Where the frames of a file lie and how their values are read: individually in an enhanced multi-frame object."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from medssl.ingest.dicom.compared import FRAME_CONTENT, compared_of_frame, dimension_pointers
from medssl.ingest.dicom.elements import Values, text
from medssl.ingest.dicom.fields import coded_word, decimal, finite, one_number
from medssl.ingest.dicom.object_kinds import role_of_type
from medssl.ingest.dicom.tags import DIMENSIONS, FRAME_GROUPS, SHARED_GROUPS
from medssl.ingest.refusal import Refusal

HOUNSFIELD = ("HU", "HOUNSFIELD", "HOUNSFIELD UNIT")
_FRAME_FIELDS = {
    "position": (0x00209113, 0x00200032),
    "orientation": (0x00209116, 0x00200037),
    "spacing": (0x00289110, 0x00280030),
    "slice_thickness": (0x00289110, 0x00180050),
    "slope": (0x00289145, 0x00281053),
    "intercept": (0x00289145, 0x00281052),
    "rescale_type": (0x00289145, 0x00281054),
    "acquisition": (FRAME_CONTENT, 0x00209156),
    "acquired": (FRAME_CONTENT, 0x00189074),
    "kvp": (0x00189325, 0x00180060),
    "kernel": (0x00189314, 0x00181210),
    "energy": (0x00189363, 0x0018937C),
    "phase": (0x00189118, 0x00209241),
    "inversion_time": (0x00189115, 0x00189079),
    "flip_angle": (0x00189112, 0x00181314),
    "echo_time": (0x00189114, 0x00189082),
    "b_value": (0x00189117, 0x00189087),
    "temporal_position": (FRAME_CONTENT, 0x00209128),
    "stack": (FRAME_CONTENT, 0x00209056),
    "trigger_time": (0x00189118, 0x00209153),
    "ct_frame_type": (0x00189329, 0x00089007),
    "mr_frame_type": (0x00189226, 0x00089007),
    "pet_frame_type": (0x00189751, 0x00089007),
}
"""(functional group, tag in it) of the values that are read for a frame"""


@dataclass(slots=True)
class Frame:
    """Where one frame (or one tile of a mosaic) lies, how its values are read, and what it shows. None is missing.

    The top level of a file holds this for the only frame of a classic file, and the defaults for frames of an enhanced one.
    """

    position: list[float] | None = None
    orientation: list[float] | None = None
    spacing: list[float] | None = None
    slope: float | None = None
    intercept: float | None = None
    """As the slope: NaN if the tag is present without a single number."""
    unit: str = ""
    """`HU`, or a keyed hash of the rescale type; empty if that is unspecified."""
    role: str = "image"
    """`image`, or the refusal code for its frame type (the image type of a classic file)."""
    content: str = ""
    """A keyed hash of the rest of that type."""
    stack: str = ""
    acquisition: int | None = None
    temporal_position: int | None = None
    echo_time: float | None = None
    b_value: float | None = None
    inversion_time: float | None = None
    flip_angle: float | None = None
    kvp: float | None = None
    energy: float | None = None
    """keV, of a monoenergetic image."""
    kernel: str = ""
    """A keyed hash, only for comparison."""
    phase: float | None = None
    """% of the cardiac cycle."""
    contrast: bool = False
    """Whether a contrast agent is named."""
    trigger_time: float | None = None
    acquisition_s: float | None = None
    content_s: float | None = None
    words: dict[str, str] = field(default_factory=dict)
    """Keyed hashes of the compared words, by the names of `compared`."""
    amounts: dict[str, float] = field(default_factory=dict)
    """The compared numbers, by the names of `compared`."""

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


def type_of(words: list[str], hidden: Callable[[str], str]) -> dict[str, str]:
    """Role and content of an image by the words of its type, ignoring words for a filter that changes no meaning.

    Source: PS3.3 C.7.6.1.1.2 (Image Type), C.8.16.1 (Frame Type).
    """
    kept = [word for word in words[2:] if word not in ("ADD", "NORM")]
    return {"role": role_of_type(words), "content": hidden("\\".join([*words[:1], *kept] if words[:1] == ["DERIVED"] else kept))}


def unit_of(words: str, hidden: Callable[[str], str]) -> str:
    """The unit that a rescale type names (PS3.3 C.11.1.1.2): `HU`, a keyed hash of any other, empty if unspecified."""
    word = coded_word(words)
    return "" if word in ("", "US") else "HU" if word in HOUNSFIELD else hidden(word)


def frames_of(
    values: Values,
    outer: Frame,
    num_frames: int,
    big: bool,
    hidden: Callable[[str], str],
    moment_s: Callable[[str], float | None],
) -> tuple[list[Frame], float | None]:
    """A `Frame` per frame of an enhanced object, and the slice thickness in mm. `hidden` makes a keyed hash of free text,
    `moment_s` seconds of a date and time.

    The per-frame group of a frame takes precedence over the shared group, which precedes `outer`, the top level of the file.

    Raises:
        Refusal: the number of frame descriptions differs from that of frames.
    """
    shared_items = values.get(SHARED_GROUPS, [])
    shared: Values = shared_items[0] if isinstance(shared_items, list) and shared_items else {}
    per_frame = values[FRAME_GROUPS]
    if not isinstance(per_frame, list) or len(per_frame) != num_frames:
        raise Refusal("corrupt", f"{len(per_frame)} frame descriptions for {num_frames} frames")
    order = ">" if big else "<"
    pointers = dimension_pointers(values.get(DIMENSIONS), order)
    frames = []
    for own in per_frame:
        pick = _Groups(own, shared, big)
        said: dict[str, Any] = {
            "position": pick.numbers("position", 3),
            "orientation": pick.numbers("orientation", 6),
            "spacing": pick.numbers("spacing", 2),
            "slope": pick.rescale("slope"),
            "intercept": pick.rescale("intercept"),
            "unit": unit_of(pick.text("rescale_type"), hidden),
            **(type_of(_words(pick), hidden) if _words(pick) else {}),
            "stack": _digits(pick.text("stack")),
            "acquisition": pick.integer("acquisition"),
            "temporal_position": pick.integer("temporal_position"),
            "echo_time": pick.double("echo_time"),
            "b_value": pick.double("b_value"),
            "inversion_time": pick.double("inversion_time"),
            "flip_angle": pick.number("flip_angle"),
            "kvp": pick.number("kvp"),
            "energy": pick.double("energy"),
            "kernel": hidden(pick.text("kernel")),
            "phase": pick.single("phase"),
            "trigger_time": pick.double("trigger_time"),
            "acquisition_s": moment_s(pick.text("acquired")),
        }
        words, amounts = compared_of_frame(own, shared, pointers, order, hidden)
        said |= {"words": outer.words | words, "amounts": outer.amounts | amounts}
        frames.append(replace(outer, **{name: value for name, value in said.items() if value not in (None, "", [])}))
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

    def number(self, name: str) -> float | None:
        found = self.numbers(name, 1)
        return found[0] if found else None

    def rescale(self, name: str) -> float | None:
        return None if self.raw(name) is None else one_number(self.text(name))

    def double(self, name: str) -> float | None:
        raw = self.raw(name)
        return finite(struct.unpack(self.order + "d", raw)[0]) if raw is not None and len(raw) == 8 else None

    def single(self, name: str) -> float | None:
        raw = self.raw(name)
        return finite(struct.unpack(self.order + "f", raw)[0]) if raw is not None and len(raw) == 4 else None

    def integer(self, name: str) -> int | None:
        raw = self.raw(name)
        form = {2: "H", 4: "I"}.get(len(raw or b""))
        return struct.unpack(self.order + form, raw)[0] if raw is not None and form else None


def _words(pick: _Groups) -> list[str]:
    """The frame type, from the group of whichever modality has one."""
    found = next((w for w in map(pick.text, ("ct_frame_type", "mr_frame_type", "pet_frame_type")) if w), "")
    return [coded_word(word) for word in found.split("\\")] if found else []


def _digits(word: str) -> str:
    return re.sub(r"\D", "", word)[:8]
