"""What may differ between the slices of one volume: the table that decides which slices belong together.

The slices of a volume differ only in position. `ATTRIBUTES` defines what a difference in any other stated attribute means, for
classic files and for the frames of enhanced ones alike. Attributes outside the table may differ (window, dose), and so may what
is applied slice by slice (slope, intercept, padding). Image numbers matter if they restart (`numbering`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from medssl.ingest.dicom.compared import MOST_DIMENSIONS
from medssl.ingest.dicom.frames import Frame
from medssl.ingest.dicom.header import Header

Rule = Literal["equal", "split", "contrast", "pass", "clock", "words", "index", "amount", "time"]
"""The meaning of a difference:

- `equal`: a contradiction, the series is refused;
- `split`: always another volume;
- `contrast`: another volume if the value covers many slices (blocks, or interleaved slices), not if it numbers the slices one
  by one;
- `pass`: as `contrast`, but consecutive blocks stay one volume if their pixel values join;
- `clock`: as `pass`, but blocks count only if the clock jumps: a scan takes its time;
- `words`, `index`, `amount`, `time`: of little weight, as they vary in many sound scans. They count if a few values, or a few
  clusters of values, sort the slices into sets (`sets_of_slices`): blocks whose pixels do not join, or interleaved sets. For
  interleaved sets, indices and amounts count only if the pixels are not smooth, and times only if the pixels alternate as well:
  an MR acquires its slices in any order.
"""


@dataclass(frozen=True)
class Attribute:
    """One attribute that slices state, what a difference in it means, and why. A missing value counts as a distinct value."""

    name: str
    """Its name in a sentence."""
    rule: Rule
    value: Callable[[Header, Frame], Hashable]
    why: str
    code: str = "mixed_content"
    """Code of the refusal if a few slices differ."""
    one_each: str = ""
    """The warning if every file has its own value: this is harmless and comes from a tool that replaces identifiers."""


def _rounded(value: float | None, digits: int) -> Hashable:
    """Numbers that differ only in their last decimals are equal; NaN is equal to itself."""
    return None if value is None else "no number" if not math.isfinite(value) else round(value, digits)


def _compared(name: str, rule: Rule, why: str) -> Attribute:
    """One of the words, amounts and times that `compared` reads."""
    if rule in ("words", "index"):
        return Attribute(name, rule, lambda h, f: f.words.get(name, ""), why)
    per_s = 1000.0 if name == "reference time" else 1.0
    return Attribute(name, rule, lambda h, f: f.amounts[name] / per_s if name in f.amounts else None, why)


def _unit(header: Header, frame: Frame) -> Hashable:
    """The unit of the values; for CT only HU is read."""
    return None if header.modality == "CT" else frame.unit, header.units


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "patient", "split", lambda h, f: h.subject, "one identifier of a series, two patients", "mixed_patient"
    ),
    Attribute(
        "series", "split", lambda h, f: h.series,
        "a slice that another series lacks may have a damaged identifier", "mixed_series", one_each="series_each",
    ),
    Attribute(
        "person", "split", lambda h, f: h.person, "two people whose identifiers a program removed", "mixed_patient",
    ),
    Attribute(
        "series number", "split", lambda h, f: h.series_number,
        "two series under one identifier (PS3.3 C.7.3.1)", "mixed_series", one_each="series_each",
    ),
    Attribute("study", "split", lambda h, f: h.study, "another study may be of another day", "mixed_patient"),
    Attribute(
        "frame of reference", "split", lambda h, f: h.frame_of_reference,
        "positions of two frames of reference cannot be compared (PS3.3 C.7.4.1)", "mixed_frame", one_each="frame_each",
    ),
    Attribute("modality", "split", lambda h, f: h.modality, "other values"),
    Attribute("image type", "split", lambda h, f: f.content, "magnitude, phase, water, fat, reconstructions (PS3.3 C.7.6.1.1.2)"),
    Attribute(
        "complex component", "split", lambda h, f: f.words.get("complex component", ""),
        "magnitude, phase, real or imaginary part (PS3.3 C.8.13.3.1.1)",
    ),
    Attribute(
        "corrections", "split", lambda h, f: f.words.get("corrections", "") if h.modality == "PT" else "",
        "with and without attenuation correction (PS3.3 C.8.9.1)",
    ),
    Attribute("stack", "split", lambda h, f: f.stack, "frames say which stack they belong to (PS3.3 C.7.6.16.2.2.4)"),
    Attribute("pixel format", "split", lambda h, f: (h.layout.signed, h.layout.bits_allocated), "exported by two programs"),
    Attribute("unit", "split", _unit, "other values (PS3.3 C.11.1.1.2, C.8.9.1.1.3)"),
    Attribute("tube voltage", "split", lambda h, f: _rounded(f.kvp, 1) if h.modality == "CT" else None, "other contrast"),
    Attribute("energy", "split", lambda h, f: _rounded(f.energy, 1), "other contrast"),
    Attribute("kernel", "split", lambda h, f: f.kernel if h.modality == "CT" else None, "other noise and sharpness"),
    Attribute("echo number", "split", lambda h, f: h.echo_number if h.modality == "MR" else None, "other contrast"),
    Attribute("echo time", "split", lambda h, f: _rounded(f.echo_time, 3) if h.modality == "MR" else None, "other contrast"),
    Attribute("b-value", "split", lambda h, f: _rounded(f.b_value, 1), "other contrast"),
    Attribute(
        "presence of a rescale", "equal", lambda h, f: (f.slope is None, f.intercept is None),
        "slices with and without a rescale are in two units", "mixed_rescale",
    ),
    Attribute("inversion time", "contrast", lambda h, f: _rounded(f.inversion_time, 1), "other contrast, or one for each slice"),
    Attribute("flip angle", "contrast", lambda h, f: _rounded(f.flip_angle, 2), "other contrast, or one for each slice"),
    Attribute("contrast agent", "contrast", lambda h, f: f.contrast, "before and after the injection"),
    Attribute(
        "phase", "contrast", lambda h, f: None if f.phase is None else round(f.phase / 5),
        "another phase of the heart; to 5 %, as every beat hits it a little differently",
    ),
    Attribute("temporal position", "contrast", lambda h, f: f.temporal_position, "another time, or a number for each slice"),
    Attribute(
        "acquisition", "pass", lambda h, f: f.acquisition,
        "another scan; or a number for each slice, or for each rotation of a step-and-shoot scan",
    ),
    Attribute(
        "trigger time", "clock", lambda h, f: _rounded(f.trigger_time, 1) if h.modality == "CT" else None,
        "another phase; or a beat for each slab. In MR every slice has a delay of its own",
    ),
    Attribute(
        "acquisition time", "clock", lambda h, f: _rounded(f.acquisition_s, 0) if h.modality == "CT" else None,
        "another scan; a CT acquires its slices in their order, an MR does not",
    ),
    _compared("sequence name", "words", "another contrast; one scan has one (PS3.3 C.8.3.1), as of all words below"),
    _compared("scanning sequence", "words", "another contrast"),
    _compared("sequence variant", "words", "another contrast"),
    _compared("scan options", "words", "with and without fat suppression; helical and axial"),
    _compared("protocol", "words", "another scan"),
    _compared("series description", "words", "another series; some programs describe each slice"),
    _compared("kind of contrast agent", "words", "another agent"),
    _compared("use of contrast agent", "words", "before and after the injection (PS3.3 C.7.6.16.2.12)"),
    _compared("filter", "words", "another beam"),
    _compared("receiving coil", "words", "another coil"),
    _compared("position of the patient", "words", "another way to lie"),
    _compared("diffusion direction", "words", "another contrast (PS3.3 C.8.13.5.9)"),
    *(
        _compared(f"dimension {n + 1}", "index", "frames say what they are sorted by, their place apart (PS3.3 C.7.6.17)")
        for n in range(MOST_DIMENSIONS)
    ),
    *(
        Attribute(
            f"time by dimension {n + 1}", "time",
            lambda h, f, name=f"time by dimension {n + 1}": f.words.get(name, ""),  # type: ignore[misc]
            "as a time; or a number of a package",
        )
        for n in range(MOST_DIMENSIONS)
    ),
    _compared("slice thickness", "amount", "two reconstructions; or the parts of one scan"),
    _compared("repetition time", "amount", "another contrast; that of a gated scan follows the heart"),
    _compared("echo train", "amount", "another contrast"),
    _compared("averages", "amount", "another noise"),
    _compared("bandwidth", "amount", "another noise and distortion"),
    _compared("tube current", "amount", "another noise; automatic exposure control gives every slice its own"),
    _compared("exposure time", "amount", "another noise; as the tube current"),
    _compared("duration of a frame", "amount", "another noise; beds of a PET may have their own"),
    Attribute(
        "acquisition time of slices", "time", lambda h, f: f.acquisition_s if h.modality != "CT" else None,
        "another scan; or another package, slab or bed of one",
    ),
    Attribute("content time", "time", lambda h, f: f.content_s, "another scan; or a batch of the reconstruction"),
    _compared("series time", "time", "another series"),
    _compared("reference time", "time", "another time; or another bed of a PET (PS3.3 C.8.9.4)"),
)  # fmt: skip
SPLITS = tuple(a for a in ATTRIBUTES if a.rule == "split")
TESTED = tuple(a for a in ATTRIBUTES if a.rule in ("contrast", "pass", "clock"))
WEAK = tuple(a for a in ATTRIBUTES if a.rule in ("words", "index", "amount", "time"))


def stated(header: Header, frame: Frame) -> dict[str, Hashable]:
    """The attributes that a slice states, by the names of the table."""
    return {attribute.name: attribute.value(header, frame) for attribute in ATTRIBUTES}


def one_for_each_file(attribute: Attribute, values: Sequence[Hashable]) -> bool:
    """Whether the values of an attribute, one per file, carry no information because nearly every file has its own."""
    counts = Counter(values)
    alone = sum(count == 1 for count in counts.values())
    return bool(attribute.one_each) and len(values) > 2 and alone >= 0.8 * len(values)
