"""The strict reader of DICOM framing: every element's length is checked, nothing is guessed, nothing recurses.

pydicom reads a file that was cut inside its header without a warning, and recurses into nested sequences. Here a file is complete
or refused; values are returned only for the requested tags; pixels are located, not read.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from mmap import mmap

from medssl.ingest.refusal import Refusal

MAX_DEPTH = 32
MAX_ELEMENTS = 50_000
MAX_ELEMENTS_PER_FRAME = 500
MAX_VALUE_BYTES = 1 << 20
UNDEFINED = 0xFFFFFFFF

PIXEL_DATA = 0x7FE00010
FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
TRANSFER_SYNTAX = 0x00020010
MEDIA_CLASS = 0x00020002
MEDIA_INSTANCE = 0x00020003
MEDIA = (MEDIA_CLASS, MEDIA_INSTANCE)
"""The class of an object and its identifier, which the file meta information repeats (PS3.10 7.1) and tools forget to empty."""
NUMBER_OF_FRAMES = 0x00280008
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

_LONG = frozenset([b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"])
_SHORT = frozenset(
    bytes(vr, "ascii")
    for vr in [
        "AE",
        "AS",
        "AT",
        "CS",
        "DA",
        "DS",
        "DT",
        "FL",
        "FD",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "SL",
        "SS",
        "ST",
        "TM",
        "UI",
        "UL",
        "US",
    ]
)

Buffer = bytes | mmap
Values = dict[int, "bytes | list[Values]"]


@dataclass
class Parsed:
    """The requested values of one file and the location of its pixels."""

    syntax: str
    big_endian: bool
    values: Values
    data: Buffer
    """The bytes that offsets refer to: the file itself, or its inflated data set."""
    pixel_offset: int = -1
    pixel_length: int = 0
    """Bytes of native pixel data; `UNDEFINED` if they are encapsulated."""
    fragments: list[tuple[int, int]] = field(default_factory=list)
    """(offset, length) of each encapsulated fragment, without the offset table."""
    offset_table: tuple[int, int] = (0, 0)
    float_pixels: bool = False


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file's first 132 bytes (or fewer) are those of a DICOM file, with or without its preamble."""
    if head[128:132] == b"DICM":
        return True
    group, element = struct.unpack("<HH", head[:4]) if len(head) >= 8 else (0, 0)
    return (group == 2 and element <= 0x102 and head[4:6] in _SHORT | _LONG) or (
        group == 8 and element <= 0x18 and (head[4:6] in _SHORT or 0 < struct.unpack("<I", head[4:8])[0] <= 256)
    )


def parse(
    file: Buffer,
    wanted: frozenset[int],
    sequences: frozenset[int] = frozenset(),
    *,
    inflated_limit: Callable[[Values], int] | None = None,
) -> Parsed:
    """Walk a whole DICOM file and return the requested top-level values, the requested sequences and the location of the pixels.

    `inflated_limit` gives, from the values before the pixels, how many bytes a deflated data set may unpack to.

    Raises:
        Refusal: `truncated`, `corrupt`, `nested`, `bomb` or `unsupported_syntax`.
    """
    start = 132 if file[128:132] == b"DICM" else 0
    meta: Values = {}
    walker = _Walker(file, start, len(file), explicit=True, big=False, wanted=frozenset([TRANSFER_SYNTAX, *MEDIA]))
    end_of_meta = walker.meta(meta)
    syntax = text(meta.get(TRANSFER_SYNTAX, b"")) or (IMPLICIT_LITTLE if end_of_meta == start else "")
    if not syntax:
        raise Refusal("truncated" if end_of_meta + 8 > len(file) else "missing_tag", "no transfer syntax")
    if not syntax.startswith("1.2.840.10008.1.2"):
        refusal = Refusal("unsupported_syntax", "not a syntax of the standard")
        refusal.values = dict(_values_of_unknown(file, end_of_meta, wanted))
        raise refusal
    if end_of_meta + 8 > len(file):
        raise Refusal("truncated", "nothing follows the file meta information")
    data: Buffer = file
    offset = end_of_meta
    if syntax == DEFLATED:
        data, offset = _inflate(file, offset, wanted, sequences, inflated_limit), 0
    explicit = _is_explicit(data, offset, syntax)
    walker = _Walker(data, offset, len(data), explicit, syntax == EXPLICIT_BIG, wanted, sequences)
    parsed = Parsed(syntax, syntax == EXPLICIT_BIG, {tag: meta.get(tag, b"") for tag in MEDIA}, data)
    try:
        walker.dataset(parsed)
    except Refusal as refusal:
        refusal.values = dict(parsed.values)
        raise
    return parsed


def _values_of_unknown(file: Buffer, offset: int, wanted: frozenset[int]) -> Values:
    """The values of a file of unknown syntax, until its framing fails; most are little endian up to the pixels."""
    parsed = Parsed("", False, {}, file)
    walker = _Walker(file, offset, len(file), _is_explicit(file, offset, EXPLICIT_LITTLE), False, wanted)
    with contextlib.suppress(Refusal):
        walker.dataset(parsed)
    return parsed.values


def text(value: object) -> str:
    """The text of a value, padding removed; undecodable bytes are replaced."""
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else ""


def _is_explicit(data: Buffer, offset: int, syntax: str) -> bool:
    """Some writers declare one VR form and use the other; the first element shows which."""
    vr = bytes(data[offset + 4 : offset + 6])
    return vr in _SHORT or vr in _LONG if syntax in (IMPLICIT_LITTLE, EXPLICIT_LITTLE) else True


def _inflate(
    file: Buffer,
    offset: int,
    wanted: frozenset[int],
    sequences: frozenset[int],
    limit: Callable[[Values], int] | None,
) -> bytes:
    """Inflate first as much as the header needs, then no more than the header's own shape allows."""
    source = bytes(file[offset:])
    head_limit = 1 << 20
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        head = inflater.decompress(source, head_limit)
        if inflater.eof:
            return head
        parsed = Parsed(DEFLATED, False, {}, head)
        _Walker(head, 0, len(head), True, False, wanted, sequences).dataset(parsed, until_pixels=True)
        allowed = max(head_limit, limit(parsed.values) if limit else 0) + head_limit
        rest = inflater.decompress(inflater.unconsumed_tail, allowed - len(head) + 1)
        if len(head) + len(rest) > allowed:
            raise Refusal("bomb", f"more than {allowed} bytes, from {len(source)}")
        if not inflater.eof:
            raise Refusal("truncated", "the deflated data set has no end")
        return head + rest
    except zlib.error:
        raise Refusal("corrupt", "the deflated data set cannot be inflated") from None


class _Walker:
    """One pass over elements with an explicit stack of the enclosing sequences."""

    def __init__(
        self,
        data: Buffer,
        offset: int,
        end: int,
        explicit: bool,
        big: bool,
        wanted: frozenset[int],
        sequences: frozenset[int] = frozenset(),
    ) -> None:
        self.data, self.offset, self.end = data, offset, end
        self.explicit, self.wanted, self.sequences = explicit, wanted, sequences
        self.tag_format = struct.Struct(">HH" if big else "<HH").unpack_from
        self.long = struct.Struct(">I" if big else "<I").unpack_from
        self.short = struct.Struct(">H" if big else "<H").unpack_from
        self.num_elements = 0
        self.max_elements = MAX_ELEMENTS

    def meta(self, values: Values) -> int:
        """Read the file meta group; returns the offset at which the data set begins."""
        while self.offset + 8 <= self.end:
            if self.tag_format(self.data, self.offset)[0] != 2:
                break
            tag, _, length, body = self._element(self.explicit)
            if length == UNDEFINED or body + length > self.end:
                raise Refusal("truncated", "inside the file meta information")
            if tag in self.wanted:
                values[tag] = bytes(self.data[body : body + length])
            self.offset = body + length
        return self.offset

    def dataset(self, parsed: Parsed, *, until_pixels: bool = False) -> None:
        """Read the top level: elements until the end, with the location of the pixels."""
        last = -1
        while self.offset < self.end:
            if self.end - self.offset < 8 or (
                self.offset + 8 <= self.end and self.data[self.offset : self.offset + 8] == b"\0" * 8
            ):
                if not any(self.data[self.offset : self.end]) and parsed.pixel_offset >= 0:
                    return
                raise Refusal("truncated", f"{self.end - self.offset} stray bytes at the end")
            tag, vr, length, body = self._element(self.explicit)
            if tag <= last:
                raise Refusal("corrupt", f"elements out of order at byte {self.offset}")
            last = tag
            if tag in FLOAT_PIXELS:
                parsed.float_pixels = True
            if tag == PIXEL_DATA:
                if until_pixels:
                    return
                parsed.pixel_offset, parsed.pixel_length = body, length
                if length == UNDEFINED:
                    self._fragments(parsed, body)
                    continue
            if length == UNDEFINED or (vr == b"SQ" and tag in self.sequences):
                items = self._sequence(body, length, implicit=vr == b"UN" or not self.explicit, keep=tag in self.sequences)
                if tag in self.sequences:
                    parsed.values[tag] = items
                continue
            if not self.explicit and tag in self.sequences:
                parsed.values[tag] = self._sequence(body, length, implicit=True, keep=True)
                continue
            if body + length > self.end:
                if until_pixels and tag not in self.wanted:
                    return
                raise Refusal("truncated", f"an element of {length} bytes at byte {self.offset} of {self.end}")
            if tag in self.wanted and length <= MAX_VALUE_BYTES:
                parsed.values[tag] = bytes(self.data[body : body + length])
                if tag == NUMBER_OF_FRAMES:
                    frames = text(parsed.values[tag])
                    self.max_elements += MAX_ELEMENTS_PER_FRAME * min(int(frames) if frames.isdigit() else 0, 20_000)
            self.offset = body + length

    def _element(self, explicit: bool) -> tuple[int, bytes, int, int]:
        """(tag, VR, length, offset of the value) of the element at the current offset."""
        self.num_elements += 1
        if self.num_elements > self.max_elements:
            raise Refusal("nested", f"more than {self.max_elements} elements")
        data, offset = self.data, self.offset
        if offset + 8 > self.end:
            raise Refusal("truncated", f"inside an element at byte {offset}")
        group, element = self.tag_format(data, offset)
        tag = group << 16 | element
        if explicit and group != 0xFFFE:
            vr = data[offset + 4 : offset + 6]
            if vr in _SHORT:
                return tag, vr, self.short(data, offset + 6)[0], offset + 8
            if vr not in _LONG:
                raise Refusal("corrupt", f"no value representation at byte {offset}")
            if offset + 12 > self.end:
                raise Refusal("truncated", f"inside an element at byte {offset}")
            return tag, vr, self.long(data, offset + 8)[0], offset + 12
        return tag, b"", self.long(data, offset + 4)[0], offset + 8

    def _fragments(self, parsed: Parsed, body: int) -> None:
        """Encapsulated pixels: an offset table, fragments, and the delimiter, without which the file was cut."""
        self.offset = body
        first = True
        while True:
            tag, _, length, body = self._element(False)
            if tag == SEQUENCE_END:
                self.offset = body
                return
            if tag != ITEM or length == UNDEFINED:
                raise Refusal("corrupt", f"no fragment at byte {self.offset} of the pixel data")
            if body + length > self.end:
                raise Refusal("truncated", f"a fragment of {length} bytes at byte {self.offset} of {self.end}")
            if first:
                parsed.offset_table = (body, length)
                first = False
            else:
                parsed.fragments.append((body, length))
            self.offset = body + length

    def _sequence(self, body: int, length: int, *, implicit: bool, keep: bool) -> list[Values]:
        """Items of a sequence of known or unknown length, without recursion; kept items hold all their small values."""
        top: list[Values] = []
        end = self.end if length == UNDEFINED else body + length
        if end > self.end:
            raise Refusal("truncated", f"a sequence of {length} bytes at byte {self.offset} of {self.end}")
        # a frame: (is it an item, its end or None, implicit VR, where items or values are added)
        stack: list[tuple[bool, int | None, bool, list[Values] | Values]] = [
            (False, None if length == UNDEFINED else end, implicit, top)
        ]
        self.offset = body
        while stack:
            is_item, stop, now_implicit, target = stack[-1]
            if stop is not None and self.offset >= stop:
                if self.offset > stop:
                    raise Refusal("corrupt", f"an item runs past its sequence at byte {stop}")
                stack.pop()
                continue
            tag, vr, size, value = self._element(not now_implicit)
            if tag in (ITEM_END, SEQUENCE_END):
                if stop is not None or is_item != (tag == ITEM_END):
                    raise Refusal("corrupt", f"a delimiter out of place at byte {self.offset}")
                self.offset = value
                stack.pop()
                continue
            if not is_item and tag != ITEM:
                raise Refusal("corrupt", f"no item at byte {self.offset} of a sequence")
            enclosing = self.end if stop is None else stop
            if size != UNDEFINED and value + size > enclosing:
                raise Refusal(
                    "truncated" if value + size > self.end else "corrupt", f"an item of {size} bytes at byte {self.offset}"
                )
            if tag == ITEM and not is_item:
                item: Values = {}
                if keep:
                    target.append(item)  # type: ignore[union-attr]
                stack.append((True, None if size == UNDEFINED else value + size, now_implicit, item))
                self.offset = value
            elif size == UNDEFINED or (
                keep and (vr == b"SQ" or (now_implicit and _is_items(self.data, value, size, self.tag_format)))
            ):
                nested: list[Values] = []
                if keep:
                    target[tag] = nested  # type: ignore[call-overload]
                inner = now_implicit or vr == b"UN"
                stack.append((False, None if size == UNDEFINED else value + size, inner, nested))
                self.offset = value
            else:
                if keep and size <= 4096:
                    target[tag] = bytes(self.data[value : value + size])  # type: ignore[call-overload]
                self.offset = value + size
            if len(stack) > 2 * MAX_DEPTH:
                raise Refusal("nested", f"deeper than {MAX_DEPTH} sequences at byte {self.offset}")
        return top


def _is_items(data: Buffer, offset: int, size: int, tag_format: Callable[..., tuple[int, int]]) -> bool:
    """Implicit VR does not mark sequences; a value that begins with an item tag is one."""
    return size >= 8 and tag_format(data, offset) == (0xFFFE, 0xE000)
