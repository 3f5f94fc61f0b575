"""The allow-list: what is taken from a DICOM header. What has no field here cannot leave ingest.

Names, numbers and UIDs become keyed hashes inside the reading process. Free text is never kept: kernels and makers are
matched against known words, dates become an age in whole years.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field
from typing import Any

from medssl.core.listing import minted
from medssl.ingest.elements import MEDIA_CLASS, Parsed, Values, text
from medssl.ingest.refusal import Refusal

_T = {
    "image_type": 0x00080008,
    "sop_class": 0x00080016,
    "sop": 0x00080018,
    "study_date": 0x00080020,
    "acquisition_time": 0x00080032,
    "content_time": 0x00080033,
    "modality": 0x00080060,
    "conversion_type": 0x00080064,
    "manufacturer": 0x00080070,
    "series_description": 0x0008103E,
    "patient": 0x00100020,
    "birth_date": 0x00100030,
    "sex": 0x00100040,
    "age": 0x00101010,
    "digitiser": 0x00181000,
    "secondary_device": 0x00181010,
    "slice_thickness": 0x00180050,
    "kvp": 0x00180060,
    "echo_time": 0x00180081,
    "echo_number": 0x00180086,
    "slice_gap": 0x00180088,
    "trigger_time": 0x00181060,
    "kernel": 0x00181210,
    "b_value": 0x00189087,
    "study": 0x0020000D,
    "series": 0x0020000E,
    "acquisition": 0x00200012,
    "instance": 0x00200013,
    "position": 0x00200032,
    "orientation": 0x00200037,
    "frame_of_reference": 0x00200052,
    "temporal_position": 0x00200100,
    "num_temporal": 0x00200105,
    "images_in_acquisition": 0x00201002,
    "images_in_series": 0x00201209,
    "samples": 0x00280002,
    "photometric": 0x00280004,
    "frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "spacing": 0x00280030,
    "bits_allocated": 0x00280100,
    "bits_stored": 0x00280101,
    "high_bit": 0x00280102,
    "signed": 0x00280103,
    "padding": 0x00280120,
    "burned_in": 0x00280301,
    "intercept": 0x00281052,
    "slope": 0x00281053,
    "rescale_type": 0x00281054,
    "lossy": 0x00282110,
    "units": 0x00541001,
    "mosaic_count": 0x0019100A,
    "csa": 0x00291010,
}
SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
_REFERENCED_SERIES, _REFERENCED_FRAMES, _SERIES = 0x00081115, 0x30060010, 0x0020000E
WANTED = frozenset(_T.values())
LAYOUT = ("samples", "photometric", "frames", "rows", "columns", "bits_allocated", "bits_stored", "high_bit", "signed", "padding")
PIXELS_WANTED = frozenset(_T[name] for name in (*LAYOUT, "lossy"))
SEQUENCES = frozenset([SHARED_GROUPS, FRAME_GROUPS, _REFERENCED_SERIES, _REFERENCED_FRAMES])

IMAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
}
LEGACY_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
}
SECONDARY_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.7{tail}" for tail in ("", ".1", ".2", ".3", ".4"))
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
DICOMDIR = "1.2.840.10008.1.3.10"

_MAKERS = {"siemens": "siemens", "ge med": "ge", "philips": "philips", "toshiba": "canon", "canon": "canon"}
_MAKERS |= {"hitachi": "fujifilm", "fujifilm": "fujifilm", "uih": "united-imaging", "united imaging": "united-imaging"}
_MAKERS |= {"hyperfine": "hyperfine", "neusoft": "neusoft", "elscint": "elscint", "picker": "picker", "bruker": "bruker"}
_KERNEL = re.compile(
    r"[A-Z]{1,2}[a-z]?\d{2,3}[a-z]?(\\\d)?|FC\d{2}(-H)?|[A-DL-Y][A-E]?|YA|YB|YC|YD|STANDARD|STND|STD\+?|SOFT|LUNG|BONE(PLUS)?|DETAIL"
    r"|EDGE|CHST|CHEST|ULTRA|B|SHARP|SMOOTH|Br\d\d[a-z]?|Hr\d\d[a-z]?|Bl\d\d[a-z]?|Qr\d\d[a-z]?"
)


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
    """Numbers that tell time points apart, most telling first."""
    kind: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Layout:
    """How the pixels of a file are stored: what decoding needs, and nothing else."""

    syntax: str
    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    padding: int | None
    lossy: bool


@dataclass(slots=True)
class Header:
    """The allow-listed fields of one DICOM file. Lengths in millimetres, LPS; ids are keyed hashes."""

    series: str
    study: str
    subject: str
    sop: str
    modality: str
    layout: Layout
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
        parts = {"layout": Layout(**record["layout"]), "frame": Frame(**record["frame"]), "per_frame": frames}
        return cls(**{**record, **parts})


def read_header(parsed: Parsed, key: bytes) -> Header:
    """The header of a parsed file; its pixels were located, not read.

    Raises:
        Refusal: a field that every image needs is missing, or the pixels' length contradicts the header.
    """
    values = parsed.values
    reader = _Reader(values, parsed.big_endian)
    sop_class = reader.text("sop_class") or text(values.get(MEDIA_CLASS, b""))
    role, modality = _role(reader, sop_class)
    if role in ("dicomdir", "unsupported_object"):
        raise Refusal(role)
    series = reader.text("series")
    if not series:
        raise Refusal("truncated" if parsed.pixel_offset < 0 else "missing_tag", "no series identifier")
    layout = read_layout(parsed, required=role == "image")
    study, patient = reader.text("study"), reader.text("patient")
    header = Header(
        series=minted(key, "s", series),
        study=minted(key, "t", study),
        # without a patient id the study stands for the patient: its series must not be split apart
        subject=minted(key, "p", patient) if patient else minted(key, "p", "study", study),
        sop=minted(key, "o", reader.text("sop")),
        modality=modality,
        layout=layout,
        image_type=[_word(word) for word in reader.text("image_type").split("\\")],
        role=role,
        frame=Frame(
            position=reader.numbers("position", 3),
            orientation=reader.numbers("orientation", 6),
            spacing=reader.numbers("spacing", 2),
            slope=reader.number("slope"),
            intercept=reader.number("intercept"),
            echo_time=reader.number("echo_time"),
            b_value=reader.float64("b_value"),
        ),
        per_frame=[],
        tiles=0,
        tile_normal=None,
        slice_gap=reader.number("slice_gap"),
        instance=reader.integer("instance"),
        acquisition=reader.integer("acquisition"),
        echo_number=reader.integer("echo_number"),
        temporal_position=reader.integer("temporal_position"),
        num_temporal=reader.integer("num_temporal"),
        declared_images=reader.integer("images_in_series") or reader.integer("images_in_acquisition"),
        frame_of_reference=minted(key, "f", reader.text("frame_of_reference")),
        kernel=_kernel(reader.text("kernel")),
        kvp=reader.number("kvp"),
        slice_thickness=reader.number("slice_thickness"),
        maker=_maker(reader.text("manufacturer")),
        age_years=_age(reader),
        sex=reader.text("sex") if reader.text("sex") in ("M", "F", "O") else None,
        rescale_tags="".join("si"[n] for n, name in enumerate(("slope", "intercept")) if _T[name] in values),
        references=[minted(key, "s", uid) for uid in _references(values)] if role == "label" else [],
    )
    header.frame.time = [
        t
        for t in (reader.number("trigger_time"), reader.clock_s("acquisition_time"), reader.clock_s("content_time"))
        if t is not None
    ]
    if FRAME_GROUPS in values:
        header.per_frame = _functional_groups(values, header, parsed.big_endian)
    elif "MOSAIC" in header.image_type:
        _mosaic(header, reader)
    return header


def read_layout(parsed: Parsed, *, required: bool = True) -> Layout:
    """How the pixels of a parsed file are stored.

    Raises:
        Refusal: there are none, or a field that decoding needs is missing.
    """
    reader = _Reader(parsed.values, parsed.big_endian)
    rows, columns, bits = reader.unsigned("rows"), reader.unsigned("columns"), reader.unsigned("bits_allocated")
    frames = reader.integer("frames") or 1
    if required:
        if parsed.float_pixels and parsed.pixel_offset < 0:
            raise Refusal("unsupported_pixels", "floating-point pixels")
        if parsed.pixel_offset < 0:
            raise Refusal("truncated", "no pixel data")
        if not rows or not columns or not bits or frames < 1:
            raise Refusal("missing_tag", "rows, columns or bits allocated")
    rows, columns, bits = rows or 0, columns or 0, bits or 0
    signed = bool(reader.unsigned("signed") or 0)
    stored = reader.unsigned("bits_stored") or bits
    high = reader.unsigned("high_bit")
    layout = Layout(
        syntax=parsed.syntax,
        rows=rows,
        columns=columns,
        frames=frames,
        samples=reader.unsigned("samples") or 1,
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=stored - 1 if high is None else high,
        signed=signed,
        photometric=reader.code("photometric"),
        padding=reader.signed16("padding") if signed else reader.unsigned("padding"),
        lossy=reader.text("lossy") == "01" or parsed.syntax in LOSSY_SYNTAXES,
    )
    if required:
        _check_pixel_length(parsed, layout)
    return layout


LOSSY_SYNTAXES = frozenset(["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"])
"""Syntaxes that lose; of JPEG 2000 (.91, .203) only the stream tells."""


def native_bytes(layout: Layout) -> int:
    """Bytes of the uncompressed pixels a header declares, a Python integer of any size."""
    return (layout.rows * layout.columns * layout.frames * layout.samples * layout.bits_allocated + 7) // 8


def _check_pixel_length(parsed: Parsed, layout: Layout) -> None:
    if parsed.pixel_length == 0xFFFFFFFF:
        if not parsed.fragments:
            raise Refusal("truncated", "encapsulated pixel data without a fragment")
        return
    expected = native_bytes(layout)
    if parsed.pixel_length not in (expected, expected + (expected & 1)):
        raise Refusal("pixel_length", f"{parsed.pixel_length} bytes, {expected} expected")


def _role(reader: _Reader, sop_class: str) -> tuple[str, str]:
    """What to do with an object of this class and type: (`image` or a refusal code, modality)."""
    modality = reader.text("modality")
    if sop_class == DICOMDIR:
        return "dicomdir", modality
    if sop_class in SECONDARY_CLASSES:
        return "secondary_capture", "OT"
    if sop_class in (SEGMENTATION, STRUCTURE_SET):
        return "label", "SEG" if sop_class == SEGMENTATION else "RTSTRUCT"
    if not sop_class and not modality:
        # cut before either: the missing pixels will tell
        return "image", modality
    known = IMAGE_CLASSES.get(sop_class) or LEGACY_CLASSES.get(sop_class)
    if known is None:
        imaging = modality in ("US", "XA", "RF", "CR", "DX", "MG", "NM", "IVUS", "OPT", "ES", "XC", "GM", "SM", "OP", "IO", "PX")
        if sop_class.startswith("1.2.840.10008.5.1.4.1.1.") and not imaging:
            return "unsupported_object", "OT"
        if modality not in ("CT", "MR", "PT"):
            return "unsupported_modality", "OT"
        known = modality
    types = reader.text("image_type").upper().split("\\")
    description = reader.text("series_description").upper()
    if reader.text("burned_in").upper() == "YES":
        return "burned_in", known
    # the BurnedInPixels filter of the RSNA's CTP: screen saves and digitised film are not passed on
    if any("SAVE" in word for word in (*types, description)):
        return "burned_in", known
    if _T["digitiser"] in reader.values and reader.text("conversion_type") in ("DF", "DV", "SI", "SD", "DRW"):
        return "burned_in", known
    if _T["secondary_device"] in reader.values:
        return "secondary_capture", known
    if any(word in ("LOCALIZER", "SCOUT", "TOPOGRAM") for word in types):
        return "localizer", known
    if types[0] == "DERIVED":
        return "derived", known
    return "image", known


def _references(values: Values) -> list[str]:
    """Series that a SEG names in its top-level sequence, or an RTSTRUCT three levels deep."""
    found, waiting = set(), [values.get(_REFERENCED_SERIES), values.get(_REFERENCED_FRAMES)]
    while waiting:
        items = waiting.pop()
        for item in items if isinstance(items, list) else []:
            if text(item.get(_SERIES)):
                found.add(text(item.get(_SERIES)))
            waiting += [value for value in item.values() if isinstance(value, list)]
    return sorted(found)


def _functional_groups(values: Values, header: Header, big: bool) -> list[Frame]:
    """A `Frame` per frame of an enhanced object: what the per-frame group says, else the shared group."""
    shared_items = values.get(SHARED_GROUPS, [])
    shared: Values = shared_items[0] if isinstance(shared_items, list) and shared_items else {}
    per_frame = values[FRAME_GROUPS]
    if not isinstance(per_frame, list) or len(per_frame) != header.layout.frames:
        raise Refusal("corrupt", f"{len(per_frame)} frame descriptions for {header.layout.frames} frames")
    frames = []
    for own in per_frame:
        pick = _Picker(own, shared, big)
        position = pick.numbers(0x00209113, 0x00200032, 3)
        orientation = pick.numbers(0x00209116, 0x00200037, 6)
        spacing = pick.numbers(0x00289110, 0x00280030, 2)
        slope, intercept = pick.numbers(0x00289145, 0x00281053, 1), pick.numbers(0x00289145, 0x00281052, 1)
        echo = pick.double(0x00189114, 0x00189082)
        temporal = pick.integer(0x00209111, 0x00209128)
        trigger = pick.double(0x00189118, 0x00209153)
        stack = pick.text(0x00209111, 0x00209056)
        b_value = pick.double(0x00189117, 0x00189087)
        kinds = [pick.text(g, 0x00089007) for g in (0x00189329, 0x00189226, 0x00189751)]
        frames.append(
            Frame(
                position=position or header.frame.position,
                orientation=orientation or header.frame.orientation,
                spacing=spacing or header.frame.spacing,
                slope=slope[0] if slope else header.frame.slope,
                intercept=intercept[0] if intercept else header.frame.intercept,
                echo_time=echo,
                b_value=b_value,
                time=[float(t) for t in (temporal, trigger) if t is not None],
                kind="/".join([*(_words(k) for k in kinds if k), "stack" + _digits(stack)]),
            )
        )
    if header.rescale_tags == "" and all(f.slope is not None and f.intercept is not None for f in frames):
        header.rescale_tags = "si"
    if header.slice_thickness is None:
        thickness = _Picker(per_frame[0], shared, big).numbers(0x00289110, 0x00180050, 1)
        header.slice_thickness = thickness[0] if thickness else None
    return frames


def _mosaic(header: Header, reader: _Reader) -> None:
    """Number of tiles and slice normal of a Siemens mosaic, from the CSA header (or the count's own private tag)."""
    csa = reader.values.get(_T["csa"], b"")
    found = csa_values(csa, ("NumberOfImagesInMosaic", "SliceNormalVector")) if isinstance(csa, bytes) else {}
    count = (
        int(found["NumberOfImagesInMosaic"][0]) if found.get("NumberOfImagesInMosaic") else reader.unsigned("mosaic_count") or 0
    )
    if not 1 <= count <= 4096:
        raise Refusal("missing_tag", "a mosaic that does not say how many tiles it has")
    side = math.ceil(math.sqrt(count))
    rows, columns = header.layout.rows, header.layout.columns
    if rows % side or columns % side:
        raise Refusal("corrupt", f"{columns}×{rows} pixels do not divide into {side}×{side} tiles")
    header.tiles = count
    normal = found.get("SliceNormalVector", [])
    header.tile_normal = normal if len(normal) == 3 else None


def csa_values(csa: bytes, names: tuple[str, ...]) -> dict[str, list[float]]:
    """Numbers of the named entries of a Siemens CSA header (version SV10), empty where it is none or damaged.

    Source: nibabel `nicom/csareader` describes the layout.
    """
    found: dict[str, list[float]] = {}
    if csa[:4] != b"SV10":
        return found
    try:
        (num_tags,) = struct.unpack_from("<I", csa, 8)
        offset = 16
        for _ in range(min(num_tags, 1000)):
            name = csa[offset : offset + 64].split(b"\0", 1)[0].decode("latin-1")
            (num_items,) = struct.unpack_from("<I", csa, offset + 76)
            offset += 84
            items = []
            for _ in range(min(num_items, 1000)):
                (length,) = struct.unpack_from("<I", csa, offset + 4)
                if name in names and length:
                    items.append(csa[offset + 16 : offset + 16 + length].split(b"\0", 1)[0].decode("latin-1").strip())
                offset += 16 + (length + 3) // 4 * 4
            if name in names:
                found[name] = [float(item) for item in items if item]
    except (struct.error, ValueError):
        return found
    return found


class _Reader:
    """Typed access to top-level values; a value of the wrong form is as good as absent, except where numbers matter."""

    def __init__(self, values: Values, big: bool) -> None:
        self.values, self.order = values, ">" if big else "<"

    def text(self, name: str) -> str:
        return text(self.values.get(_T[name], b""))

    def code(self, name: str) -> str:
        return _word(self.text(name))

    def numbers(self, name: str, count: int) -> list[float] | None:
        return _decimal(self.text(name), count)

    def number(self, name: str) -> float | None:
        found = _decimal(self.text(name), 1)
        return found[0] if found else None

    def integer(self, name: str) -> int | None:
        word = self.text(name)
        return int(word) if re.fullmatch(r"[+-]?\d{1,12}", word) else None

    def unsigned(self, name: str) -> int | None:
        value = self.values.get(_T[name])
        return struct.unpack(self.order + "H", value[:2])[0] if isinstance(value, bytes) and len(value) >= 2 else None

    def signed16(self, name: str) -> int | None:
        value = self.values.get(_T[name])
        return struct.unpack(self.order + "h", value[:2])[0] if isinstance(value, bytes) and len(value) >= 2 else None

    def float64(self, name: str) -> float | None:
        value = self.values.get(_T[name])
        return _finite(struct.unpack(self.order + "d", value)[0]) if isinstance(value, bytes) and len(value) == 8 else None

    def clock_s(self, name: str) -> float | None:
        found = re.fullmatch(r"(\d\d)(\d\d)(\d\d(?:\.\d+)?)", self.text(name))
        return int(found[1]) * 3600.0 + int(found[2]) * 60.0 + float(found[3]) if found else None


class _Picker:
    """A value of a functional group: the frame's own, else the shared one."""

    def __init__(self, own: Values, shared: Values, big: bool) -> None:
        self.sources, self.order = (own, shared), ">" if big else "<"

    def raw(self, group: int, tag: int) -> bytes | None:
        for source in self.sources:
            items = source.get(group)
            if isinstance(items, list) and items and isinstance(items[0].get(tag), bytes):
                return items[0][tag]  # type: ignore[return-value]
        return None

    def text(self, group: int, tag: int) -> str:
        return text(self.raw(group, tag) or b"")

    def numbers(self, group: int, tag: int, count: int) -> list[float] | None:
        return _decimal(self.text(group, tag), count)

    def double(self, group: int, tag: int) -> float | None:
        raw = self.raw(group, tag)
        return _finite(struct.unpack(self.order + "d", raw)[0]) if raw is not None and len(raw) == 8 else None

    def integer(self, group: int, tag: int) -> int | None:
        raw = self.raw(group, tag)
        return struct.unpack(self.order + "I", raw)[0] if raw is not None and len(raw) == 4 else None


def _decimal(words: str, count: int) -> list[float] | None:
    """`count` decimal numbers separated by backslashes; NaN stands for a number that is none, so that it is noticed."""
    if not words:
        return None
    parts = words.split("\\")
    if len(parts) != count:
        return None
    found = []
    for part in parts:
        try:
            found.append(float(part))
        except ValueError:
            found.append(math.nan)
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _word(word: str) -> str:
    """A coded word (CS): capitals, digits and underscore, at most 16; it may only be compared, never printed."""
    return re.sub(r"[^A-Z0-9_ ]", "", word.upper().strip())[:16]


def _words(words: str) -> str:
    return "\\".join(_word(word) for word in words.split("\\"))


def _digits(word: str) -> str:
    return re.sub(r"\D", "", word)[:8]


def _kernel(word: str) -> str | None:
    """A reconstruction kernel, if it is one that scanners are known to write; other text is `other`."""
    first = word.split("\\")[0].strip()
    return None if not first else first if _KERNEL.fullmatch(first) else "other"


def _maker(word: str) -> str | None:
    low = word.lower()
    return next((code for start, code in _MAKERS.items() if low.startswith(start)), "other") if low else None


def _age(reader: _Reader) -> int | None:
    """Whole years, 90 and more as 90; from the age field, else from the birth date and the study date."""
    found = re.fullmatch(r"(\d{3})([DWMY])", reader.text("age"))
    if found:
        years = int(found[1]) if found[2] == "Y" else int(int(found[1]) / {"D": 365.25, "W": 52.18, "M": 12}[found[2]])
        return min(years, 90)
    birth, study = reader.text("birth_date"), reader.text("study_date")
    if re.fullmatch(r"\d{8}", birth) and re.fullmatch(r"\d{8}", study):
        years = int(study[:4]) - int(birth[:4]) - (study[4:] < birth[4:])
        # equal dates are what an anonymiser leaves, not a newborn
        return min(years, 90) if 0 <= years <= 130 and study != birth else None
    return None
