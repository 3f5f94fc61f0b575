"""How the pixels of a file are stored: the fields that decoding needs, checked against the length of the pixels."""

from __future__ import annotations

from dataclasses import dataclass

from medssl.ingest.dicom.elements import UNDEFINED, Parsed
from medssl.ingest.dicom.fields import Fields
from medssl.ingest.hounsfield_scale import UNSIGNED_PADDING
from medssl.ingest.refusal import Refusal

LOSSY_SYNTAXES = frozenset(["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"])
"""Lossy syntaxes; for JPEG 2000 (.91, .203) only the stream shows it."""


@dataclass(slots=True)
class PixelLayout:
    """How the pixels of a file are stored: exactly what decoding needs."""

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
    padding_limit: int | None
    """The other end of the range of padding values (PS3.3 C.7.5.1.1.2), if it is a range."""
    lossy: bool


def read_pixel_layout(parsed: Parsed, *, required: bool = True) -> PixelLayout:
    """How the pixels of a parsed file are stored.

    Raises:
        Refusal: there are none, or a field that decoding needs is missing.
    """
    fields = Fields(parsed.values, parsed.big_endian)
    rows, columns, bits = fields.unsigned("rows"), fields.unsigned("columns"), fields.unsigned("bits_allocated")
    frames = fields.integer("frames") or 1
    if required:
        if parsed.float_pixels and parsed.pixel_offset < 0:
            raise Refusal("unsupported_pixels", "floating-point pixels")
        if parsed.pixel_offset < 0:
            raise Refusal("truncated", "no pixel data")
        if not rows or not columns or not bits or frames < 1:
            raise Refusal("missing_tag", "rows, columns or bits allocated")
        if fields.unsigned("signed") is None:
            raise Refusal("missing_tag", "whether pixels are signed")
    rows, columns, bits = rows or 0, columns or 0, bits or 0
    signed = bool(fields.unsigned("signed") or 0)
    stored = fields.unsigned("bits_stored") or bits
    high = fields.unsigned("high_bit")
    layout = PixelLayout(
        syntax=parsed.syntax,
        rows=rows,
        columns=columns,
        frames=frames,
        samples=fields.unsigned("samples") or 1,
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=stored - 1 if high is None else high,
        signed=signed,
        photometric=fields.code("photometric"),
        padding=fields.signed16("padding") if signed else fields.unsigned("padding"),
        padding_limit=fields.signed16("padding_limit") if signed else fields.unsigned("padding_limit"),
        lossy=fields.text("lossy") == "01" or parsed.syntax in LOSSY_SYNTAXES,
    )
    if layout.padding is None and layout.padding_limit is None and not signed and stored == 16:
        layout.padding = UNSIGNED_PADDING  # its value in a CT: padding that lost its sign is never declared
    if required:
        _check_pixel_length(parsed, layout)
    return layout


def native_bytes(layout: PixelLayout) -> int:
    """Bytes of the uncompressed pixels a header declares, a Python integer of any size."""
    return (layout.rows * layout.columns * layout.frames * layout.samples * layout.bits_allocated + 7) // 8


def _check_pixel_length(parsed: Parsed, layout: PixelLayout) -> None:
    if parsed.pixel_length == UNDEFINED:
        if not parsed.fragments:
            raise Refusal("truncated", "encapsulated pixel data without a fragment")
        return
    expected = native_bytes(layout)
    if parsed.pixel_length not in (expected, expected + (expected & 1)):
        raise Refusal("pixel_length", f"{parsed.pixel_length} bytes, {expected} expected")
