"""The header of a DICOM file: its allow-listed fields, and nothing that identifies a patient.

Names, numbers and UIDs become keyed hashes inside the reading process. Free text is never kept: kernels and makers are
matched with known words, dates become an age in whole years.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from medssl.core.listing import minted, minted_patient
from medssl.ingest.dicom.compared import compared_of_file
from medssl.ingest.dicom.elements import MEDIA_CLASS, MEDIA_INSTANCE, Parsed, text
from medssl.ingest.dicom.fields import Fields, coded_word
from medssl.ingest.dicom.frames import Frame, frames_of, type_of, unit_of
from medssl.ingest.dicom.known_words import age_years, known_kernel, known_maker
from medssl.ingest.dicom.mosaic import mosaic_tiles
from medssl.ingest.dicom.object_kinds import OF_PATIENTS, described_series, is_without_image, role_of
from medssl.ingest.dicom.pixel_layout import PixelLayout, read_pixel_layout
from medssl.ingest.dicom.placeholders import is_placeholder_id, is_placeholder_name, true_uid
from medssl.ingest.dicom.tags import ENERGY_GROUPS, FRAME_GROUPS, MODALITY_LUT, TAGS
from medssl.ingest.refusal import Refusal


@dataclass(slots=True)
class Header:
    """The allow-listed fields of one DICOM file. Lengths in millimetres, LPS; ids are keyed hashes."""

    series: str
    """Empty if the file has no series identifier, or a constant instead."""
    sound_id: bool
    """Whether the series identifier is well-formed (PS3.5 9.1): digits and dots."""
    series_number: int | None
    study: str
    subject: str
    patient_by: str
    """What identifies the patient: `id`, `person` (name, birth date and sex), `study`; empty if nothing is stated."""
    person: str
    """From name, birth date and sex, if the patient identifier is a placeholder; else empty."""
    sop: str
    """Empty if neither the file nor its file meta information (PS3.10 7.1) has an instance identifier."""
    modality: str
    layout: PixelLayout
    role: str
    """`image`, or the refusal code for its kind of object."""
    frame: Frame
    per_frame: list[Frame]
    tiles: int
    """Tiles of a Siemens mosaic, 0 for an ordinary image."""
    tile_normal: list[float] | None
    slice_gap: float | None
    instance: int | None
    echo_number: int | None
    num_temporal: int | None
    concatenation: str
    """Of the object that this file is part of (PS3.3 C.7.6.16.2.2.4), or empty."""
    part: tuple[int, int] | None
    """(number, count) of the part; 0 if not stated."""
    declared_images: int | None
    frame_of_reference: str
    kernel: str | None
    kvp: float | None
    slice_thickness: float | None
    maker: str | None
    age_years: int | None
    sex: str | None
    units: str
    """Of PET values, a keyed hash."""
    modality_lut: bool
    """Whether values are mapped by a table instead of a slope and an intercept."""
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
        part = tuple(record["part"]) if record["part"] else None
        parts = {"layout": PixelLayout(**record["layout"]), "frame": Frame(**record["frame"]), "per_frame": frames, "part": part}
        return cls(**{**record, **parts})


def read_header(parsed: Parsed, key: bytes) -> Header:
    """The header of a parsed file; its pixels were located, not read.

    Raises:
        Refusal: a field that every image needs is missing, or the pixels' length contradicts the header.
    """
    values = parsed.values
    fields = Fields(values, parsed.big_endian)
    sop_class = sop_class_of(parsed)
    role, modality = role_of(fields, sop_class)
    if role in OF_PATIENTS and parsed.pixel_offset < 0 and not parsed.float_pixels and is_without_image(fields, sop_class):
        role = "unsupported_object"
    if role in ("dicomdir", "unsupported_object"):
        raise Refusal(role)
    stated = fields.text("series")
    series = true_uid(stated)
    if not stated and parsed.pixel_offset < 0:
        raise Refusal("truncated", "no series identifier")
    layout = read_pixel_layout(parsed, required=role == "image")
    study, sop = true_uid(fields.text("study")), true_uid(fields.text("sop")) or true_uid(text(values.get(MEDIA_INSTANCE, b"")))
    patient = fields.text("patient").encode("latin-1").decode("utf-8", "surrogateescape")  # its bytes, in any character set
    concatenation = fields.text("concatenation")
    types = [coded_word(word) for word in fields.text("image_type").split("\\")]

    def hidden(words: str) -> str:
        return minted(key, "w", words) if words else ""

    subject, patient_by = _patient(fields, patient, study, key)
    words, amounts = compared_of_file(fields, hidden)
    header = Header(
        series=minted(key, "s", series) if series else "",
        sound_id=re.fullmatch(r"[0-9.]+", stated) is not None,
        series_number=fields.integer("series_number"),
        study=minted(key, "t", study),
        subject=subject,
        patient_by=patient_by,
        person=hidden(_person(fields)) if is_placeholder_id(patient) else "",
        sop=minted(key, "o", sop) if sop else "",
        modality=modality,
        layout=layout,
        role=role,
        frame=Frame(
            position=fields.numbers("position", 3),
            orientation=fields.numbers("orientation", 6),
            spacing=fields.numbers("spacing", 2),
            slope=fields.rescale("slope"),
            intercept=fields.rescale("intercept"),
            unit=unit_of(fields.text("rescale_type"), hidden),
            **type_of(types, hidden),
            acquisition=fields.integer("acquisition"),
            temporal_position=fields.integer("temporal_position"),
            echo_time=fields.number("echo_time"),
            b_value=fields.float64("b_value"),
            inversion_time=fields.number("inversion_time"),
            flip_angle=fields.number("flip_angle"),
            kvp=fields.number("kvp"),
            energy=_energy(fields),
            kernel=hidden(fields.text("kernel")),
            phase=fields.float32("cardiac_phase"),
            contrast=bool(fields.text("contrast_agent")),
            trigger_time=fields.number("trigger_time"),
            acquisition_s=_acquired_s(fields),
            content_s=fields.clock_s("content_time", "content_date"),
            words=words,
            amounts=amounts,
        ),
        per_frame=[],
        tiles=0,
        tile_normal=None,
        slice_gap=fields.number("slice_gap"),
        instance=fields.integer("instance"),
        echo_number=fields.integer("echo_number"),
        num_temporal=fields.integer("num_temporal"),
        concatenation=hidden(concatenation),
        part=(fields.unsigned("part") or 0, fields.unsigned("num_parts") or 0) if concatenation else None,
        declared_images=fields.integer("images_in_series") or fields.integer("images_in_acquisition"),
        frame_of_reference=minted(key, "f", fields.text("frame_of_reference")),
        kernel=known_kernel(fields.text("kernel")),
        kvp=fields.number("kvp"),
        slice_thickness=fields.number("slice_thickness"),
        maker=known_maker(fields.text("manufacturer")),
        age_years=age_years(fields),
        sex=fields.text("sex") if fields.text("sex") in ("M", "F", "O") else None,
        units=hidden(fields.code("units")),
        modality_lut=bool(values.get(MODALITY_LUT)),
        references=[minted(key, "s", uid) for uid in described_series(values)] if role == "label" else [],
    )
    if role == "image":
        _check_frames(fields, types, FRAME_GROUPS in values)
    if FRAME_GROUPS in values:
        header.per_frame, thickness = frames_of(values, header.frame, layout.frames, parsed.big_endian, hidden, fields.moment_s)
        if header.slice_thickness is None:
            header.slice_thickness = thickness
    elif "MOSAIC" in types:
        header.tiles, header.tile_normal = mosaic_tiles(fields, layout)
    return header


def sop_class_of(parsed: Parsed) -> str:
    """The class of an object: from the data set, else from the file meta information (PS3.10 7.1)."""
    return text(parsed.values.get(TAGS["sop_class"], b"")) or text(parsed.values.get(MEDIA_CLASS, b""))


def _check_frames(fields: Fields, types: list[str], enhanced: bool) -> None:
    """Refuse sheets of tiles that are not supported: those of United Imaging, and those within an enhanced object.

    Raises:
        Refusal: `unsupported_frames`.
    """
    if "VFRAME" in types or fields.text("tiles_of_sheet"):
        raise Refusal("unsupported_frames", "sheets of tiles (VFRAME)")
    if enhanced and "MOSAIC" in types:
        raise Refusal("unsupported_frames", "sheets of tiles as frames of an enhanced object")


def _patient(fields: Fields, patient: str, study: str, key: bytes) -> tuple[str, str]:
    """The keyed patient and its basis: the PatientID, else name, birth date and sex, else the study, which stays whole."""
    if patient:
        return minted_patient(key, patient), "id"
    if fields.text("birth_date") and not is_placeholder_name(fields.text("name")):
        return minted(key, "p", "person", _person(fields)), "person"
    return minted(key, "p", "study", study), "study" if study else ""


def _person(fields: Fields) -> str:
    """Name, birth date and sex, as far as they are present."""
    said = [re.sub(r"[^A-Z0-9]", "", fields.text(name).upper()) for name in ("name", "birth_date", "sex")]
    return "^".join(said) if any(said) else ""


def _acquired_s(fields: Fields) -> float | None:
    """When an image was acquired, by its time and date or by the field that holds both."""
    seconds = fields.clock_s("acquisition_time", "acquisition_date")
    return fields.moment_s(fields.text("acquisition_moment")) if seconds is None else seconds


def _energy(fields: Fields) -> float | None:
    """The energy in keV of a monoenergetic CT image: at the top level, or in the sequences of multi-energy CT."""
    found = fields.float64("energy")
    for group in ENERGY_GROUPS:
        items = fields.values.get(group)
        for item in items if isinstance(items, list) else []:
            found = found if found is not None else Fields(item, fields.order == ">").float64("energy")
    return found
