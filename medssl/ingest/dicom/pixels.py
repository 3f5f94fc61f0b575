"""Stored pixel values of one frame, from native or compressed bytes: exact where the syntax is lossless."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from medssl.ingest.dicom.elements import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, UNDEFINED, Parsed
from medssl.ingest.dicom.pixel_layout import PixelLayout
from medssl.ingest.refusal import Refusal

NATIVE = frozenset([IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED])
RLE = "1.2.840.10008.1.2.5"
JPEG = frozenset(["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"])
JPEG_LOSSLESS = frozenset(["1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"])
JPEG_LS = frozenset(["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"])
JPEG_2000 = frozenset(["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"])
HTJ2K = frozenset(["1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"])
SYNTAXES = NATIVE | {RLE} | JPEG | JPEG_LOSSLESS | JPEG_LS | JPEG_2000 | HTJ2K


def check_pixels(layout: PixelLayout) -> None:
    """Require scalar pixels of a supported type.

    Raises:
        Refusal: `unsupported_syntax`, `colour` or `unsupported_pixels`.
    """
    if layout.syntax not in SYNTAXES:
        raise Refusal("unsupported_syntax", "no decoder for it here")
    if layout.samples != 1 or layout.photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Refusal("colour", f"{layout.samples} samples a pixel")
    if layout.bits_allocated not in (8, 16) or not 1 <= layout.bits_stored <= layout.bits_allocated:
        raise Refusal("unsupported_pixels", f"{layout.bits_stored} of {layout.bits_allocated} bits")
    if layout.high_bit != layout.bits_stored - 1:
        raise Refusal("unsupported_pixels", f"the high bit is {layout.high_bit} for {layout.bits_stored} bits stored")


def frame_pixels(parsed: Parsed, layout: PixelLayout, frame: int) -> np.ndarray:
    """Stored values of one frame as an array `(columns, rows)`, axes (i, j), Fortran order; int16, uint16, int8 or uint8.

    Raises:
        Refusal: the bytes are not what the header says.
    """
    shape = (layout.rows, layout.columns)
    if layout.syntax in NATIVE:
        size = layout.rows * layout.columns * layout.bits_allocated // 8
        start = parsed.pixel_offset + frame * size
        dtype = np.dtype("u1" if layout.bits_allocated == 8 else ">u2" if parsed.big_endian else "<u2")
        raw = np.frombuffer(parsed.data, dtype=dtype, count=layout.rows * layout.columns, offset=start).reshape(shape)
        if parsed.big_endian and dtype.itemsize == 2:
            raw = raw.astype("<u2")
    else:
        raw = _decode(_frame_bytes(parsed, layout, frame), layout)
        if raw.shape != shape:
            raise Refusal("decode", f"{raw.shape[::-1]} pixels decoded, {shape[::-1]} declared")
    return _sign(raw, layout).T


def is_lossy(parsed: Parsed, layout: PixelLayout) -> bool:
    """Whether the pixels had lossy compression, according to the header or the JPEG 2000 stream."""
    if layout.lossy or layout.syntax not in JPEG_2000 | HTJ2K:
        return layout.lossy
    stream = _frame_bytes(parsed, layout, 0)[:4096]
    coding = stream.find(b"\xff\x52")
    # byte 13 of the coding style segment: 1 is the reversible 5-3 filter, 0 the irreversible 9-7
    return coding < 0 or stream[coding + 13 : coding + 14] != b"\x01"


def _sign(raw: np.ndarray, layout: PixelLayout) -> np.ndarray:
    """Clear the bits above the stored ones (they may hold overlays) and extend the sign bit of the stored ones."""
    width, stored = raw.dtype.itemsize * 8, layout.bits_stored
    unsigned = raw.view(f"u{raw.dtype.itemsize}")
    if not layout.signed:
        return unsigned if stored == width else unsigned & np.array((1 << stored) - 1, unsigned.dtype)
    signed = unsigned.view(f"i{raw.dtype.itemsize}")
    return signed if stored == width else np.right_shift(np.left_shift(signed, width - stored), width - stored)


def _frame_bytes(parsed: Parsed, layout: PixelLayout, frame: int) -> bytes:
    """The fragments of one frame, joined."""
    fragments = parsed.fragments
    if len(fragments) == layout.frames:
        picked = fragments[frame : frame + 1]
    elif layout.frames == 1:
        picked = fragments
    else:
        offset, length = parsed.offset_table
        starts = struct.unpack(f"<{length // 4}I", parsed.data[offset : offset + length // 4 * 4])
        if len(starts) != layout.frames or list(starts) != sorted(set(starts)):
            raise Refusal("corrupt", f"{len(fragments)} fragments for {layout.frames} frames and no table of offsets")
        base = offset + length
        low = base + starts[frame]
        high = base + starts[frame + 1] if frame + 1 < layout.frames else UNDEFINED << 8
        picked = [f for f in fragments if low <= f[0] - 8 < high]
    return b"".join(bytes(parsed.data[start : start + size]) for start, size in picked)


def _decode(stream: bytes, layout: PixelLayout) -> np.ndarray:
    if layout.syntax == RLE:
        return _rle(stream, layout)
    import imagecodecs

    decoders: list[tuple[frozenset[str], Callable[[bytes], np.ndarray]]] = [
        (JPEG, lambda b: imagecodecs.jpeg8_decode(b)),
        (JPEG_LOSSLESS, _jpeg_lossless),
        (JPEG_LS, lambda b: imagecodecs.jpegls_decode(b)),
        (JPEG_2000, lambda b: imagecodecs.jpeg2k_decode(b)),
        (HTJ2K, lambda b: imagecodecs.jpeg2k_decode(b)),
    ]
    decode = next(function for syntaxes, function in decoders if layout.syntax in syntaxes)
    declared = _stream_shape(stream)
    if declared is not None and declared != (layout.rows, layout.columns):
        raise Refusal(
            "decode", f"the stream holds {declared[1]}×{declared[0]} pixels, the header says {layout.columns}×{layout.rows}"
        )
    if declared is None:
        raise Refusal("decode", "the stream does not say how large its image is")
    _check_end(stream)
    try:
        pixels = np.asarray(decode(stream))
    except MemoryError:
        raise
    except Exception:
        raise Refusal("decode", f"{len(stream)} bytes of a frame") from None
    if pixels.ndim != 2 or pixels.dtype.itemsize > 2 or pixels.dtype.kind not in "iu":
        raise Refusal("decode", f"{pixels.ndim} axes of {pixels.dtype}")
    if pixels.dtype.itemsize * 8 != layout.bits_allocated:
        pixels = pixels.astype(np.int16 if pixels.dtype.kind == "i" else np.uint16)
        if layout.bits_allocated == 8:
            raise Refusal("decode", "more than 8 bits in a stream that declares 8")
    return np.ascontiguousarray(pixels)


def _jpeg_lossless(stream: bytes) -> np.ndarray:
    """Lossless JPEG; the faster of two decoders, which supports only a single component."""
    import imagecodecs

    return imagecodecs.ljpeg_decode(stream)


def _check_end(stream: bytes) -> None:
    """Require the end marker of a JPEG family stream, before any zero padding; without it the stream was cut."""
    if stream.rstrip(b"\0")[-2:] != b"\xff\xd9":
        raise Refusal("truncated", "a compressed frame without its end marker")


def _stream_shape(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 stream declares; read before any memory is allocated."""
    if stream[:4] == b"\xff\x4f\xff\x51":
        x1, y1, x0, y0 = struct.unpack(">4I", stream[8:24]) if len(stream) >= 24 else (0, 0, 0, 0)
        return y1 - y0, x1 - x0
    if stream[:2] != b"\xff\xd8":
        return None
    offset = 2
    while offset + 9 <= len(stream):
        if stream[offset] != 0xFF:
            return None
        marker = stream[offset + 1]
        if marker == 0xFF or 0xD0 <= marker <= 0xD8:
            offset += 1 if marker == 0xFF else 2
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return struct.unpack(">HH", stream[offset + 5 : offset + 9])
        (length,) = struct.unpack(">H", stream[offset + 2 : offset + 4])
        offset += 2 + length
    return None


def _rle(stream: bytes, layout: PixelLayout) -> np.ndarray:
    """DICOM run-length coding: byte planes, most significant first, each packed bits (PS3.5 annex G)."""
    num_planes = layout.bits_allocated // 8
    if len(stream) < 64:
        raise Refusal("truncated", "a run-length frame without its header")
    count, *offsets = struct.unpack("<16I", stream[:64])
    if count != num_planes:
        raise Refusal("decode", f"{count} run-length segments, {num_planes} expected")
    size = layout.rows * layout.columns
    out = np.empty((size, num_planes), np.uint8)
    bounds = [*offsets[:count], len(stream)]
    for plane in range(count):
        start, stop = bounds[plane], bounds[plane + 1]
        if not 64 <= start <= stop <= len(stream):
            raise Refusal("decode", "run-length segments out of place")
        out[:, num_planes - 1 - plane] = _unpack_bits(stream[start:stop], size)
    return out.reshape(-1).view(f"<u{num_planes}").reshape(layout.rows, layout.columns)


def _unpack_bits(segment: bytes, size: int) -> np.ndarray:
    """Exactly `size` bytes of a PackBits segment."""
    import imagecodecs

    out = np.empty(size + 256, np.uint8)
    try:
        decoded = imagecodecs.packbits_decode(segment, out=out)  # type: ignore[arg-type]
    except Exception:
        raise Refusal("decode", "a run-length segment that does not decode") from None
    if len(decoded) < size:
        raise Refusal("truncated", f"{len(decoded)} of {size} bytes in a run-length segment")
    return np.asarray(decoded[:size])
