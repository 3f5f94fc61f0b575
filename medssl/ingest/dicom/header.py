"""The header of a DICOM file: its allow-listed fields, and nothing that names a patient.

Names, numbers and UIDs become keyed hashes inside the reading process. Free text is never kept: kernels and makers are
matched against known words, dates become an age in whole years.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medssl.core.listing import minted
from medssl.ingest.dicom.elements import MEDIA_CLASS, Parsed, text
from medssl.ingest.dicom.fields import Fields, coded_word
from medssl.ingest.dicom.frames import Frame, frames_of
from medssl.ingest.dicom.known_words import age_years, known_kernel, known_maker
from medssl.ingest.dicom.mosaic import mosaic_tiles
from medssl.ingest.dicom.object_kinds import described_series, role_of
from medssl.ingest.dicom.pixel_layout import PixelLayout, read_pixel_layout
from medssl.ingest.dicom.tags import FRAME_GROUPS, TAGS
from medssl.ingest.refusal import Refusal


@dataclass(slots=True)
class Header:
    """The allow-listed fields of one DICOM file. Lengths in millimetres, LPS; ids are keyed hashes."""

    series: str
    study: str
    subject: str
    sop: str
    modality: str
    layout: PixelLayout
    image_type: list[str]
    role: str
    """`image`, or the refusal code that its kind of object deserves."""
    frame: Frame
    per_frame: list[Frame]
    tiles: int
    """Tiles of a Siemens mosaic, 0 for an ordinary image."""
    tile_normal: list[float] | None
    slice_gap: float | None
    instance: int | None
    acquisition: int | None
    echo_number: int | None
    temporal_position: int | None
    num_temporal: int | None
    declared_images: int | None
    frame_of_reference: str
    kernel: str | None
    kvp: float | None
    slice_thickness: float | None
    maker: str | None
    age_years: int | None
    sex: str | None
    rescale_tags: str
    references: list[str]
    """Series that a label object (SEG, RTSTRUCT) describes."""

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        record = {name: getattr(self, name) for name in self.__slots__}
        record["layout"] = {name: getattr(self.layout, name) for name in self.layout.__slots__}
        record["frame"] = self.frame.to_json()
        record["per_frame"] = [frame.to_json() for frame in self.per_frame]
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Header:
        """A header from the object that `to_json` made."""
        frames = [Frame(**frame) for frame in record["per_frame"]]
        parts = {"layout": PixelLayout(**record["layout"]), "frame": Frame(**record["frame"]), "per_frame": frames}
        return cls(**{**record, **parts})


def read_header(parsed: Parsed, key: bytes) -> Header:
    """The header of a parsed file; its pixels were located, not read.

    Raises:
        Refusal: a field that every image needs is missing, or the pixels' length contradicts the header.
    """
    values = parsed.values
    fields = Fields(values, parsed.big_endian)
    sop_class = fields.text("sop_class") or text(values.get(MEDIA_CLASS, b""))
    role, modality = role_of(fields, sop_class)
    if role in ("dicomdir", "unsupported_object"):
        raise Refusal(role)
    series = fields.text("series")
    if not series:
        raise Refusal("truncated" if parsed.pixel_offset < 0 else "missing_tag", "no series identifier")
    layout = read_pixel_layout(parsed, required=role == "image")
    study, patient = fields.text("study"), fields.text("patient")
    header = Header(
        series=minted(key, "s", series),
        study=minted(key, "t", study),
        # without a patient id the study stands for the patient: its series must not be split apart
        subject=minted(key, "p", patient) if patient else minted(key, "p", "study", study),
        sop=minted(key, "o", fields.text("sop")),
        modality=modality,
        layout=layout,
        image_type=[coded_word(word) for word in fields.text("image_type").split("\\")],
        role=role,
        frame=Frame(
            position=fields.numbers("position", 3),
            orientation=fields.numbers("orientation", 6),
            spacing=fields.numbers("spacing", 2),
            slope=fields.number("slope"),
            intercept=fields.number("intercept"),
            echo_time=fields.number("echo_time"),
            b_value=fields.float64("b_value"),
        ),
        per_frame=[],
        tiles=0,
        tile_normal=None,
        slice_gap=fields.number("slice_gap"),
        instance=fields.integer("instance"),
        acquisition=fields.integer("acquisition"),
        echo_number=fields.integer("echo_number"),
        temporal_position=fields.integer("temporal_position"),
        num_temporal=fields.integer("num_temporal"),
        declared_images=fields.integer("images_in_series") or fields.integer("images_in_acquisition"),
        frame_of_reference=minted(key, "f", fields.text("frame_of_reference")),
        kernel=known_kernel(fields.text("kernel")),
        kvp=fields.number("kvp"),
        slice_thickness=fields.number("slice_thickness"),
        maker=known_maker(fields.text("manufacturer")),
        age_years=age_years(fields),
        sex=fields.text("sex") if fields.text("sex") in ("M", "F", "O") else None,
        rescale_tags="".join("si"[n] for n, name in enumerate(("slope", "intercept")) if TAGS[name] in values),
        references=[minted(key, "s", uid) for uid in described_series(values)] if role == "label" else [],
    )
    header.frame.time = [
        t
        for t in (fields.number("trigger_time"), fields.clock_s("acquisition_time"), fields.clock_s("content_time"))
        if t is not None
    ]
    if FRAME_GROUPS in values:
        header.per_frame, thickness = frames_of(values, header.frame, layout.frames, parsed.big_endian)
        if not header.rescale_tags and all(f.slope is not None and f.intercept is not None for f in header.per_frame):
            header.rescale_tags = "si"
        if header.slice_thickness is None:
            header.slice_thickness = thickness
    elif "MOSAIC" in header.image_type:
        header.tiles, header.tile_normal = mosaic_tiles(fields, layout)
    return header
