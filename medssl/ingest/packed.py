"""Stored values of a file, raw or packed: limited by what its header declares, with length and checksum verified."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from medssl.ingest.dicom.elements import Buffer
from medssl.ingest.refusal import Refusal

BOMB_BYTES, BOMB_RATIO = 256 << 20, 200
MOST_RATIO = 1100
"""Highest ratio of unpacked to packed bytes in Deflate."""
_CHUNK = 1 << 20
_GZIP_OR_ZLIB = 47


def check_content(data: Buffer, header: dict[str, Any]) -> None:
    """Require that a file can hold what a header declares, before anything is unpacked.

    Args:
        data: of the file that holds the values.
        header: `start` (byte at which they, or their packed stream, begin; −1: they end the file), `bytes` (their length,
            unpacked)
            and `packed`.

    Raises:
        Refusal: `truncated`, `corrupt` (stray bytes) or `bomb`.
    """
    start, total = max(header["start"], 0), header["bytes"]
    available = len(data) - start
    if header["packed"]:
        if total > (available + 1) * MOST_RATIO:
            raise Refusal("truncated", f"{available} packed bytes cannot hold {total}")
        if total > BOMB_BYTES and total > available * BOMB_RATIO:
            raise Refusal("bomb", f"{available} bytes that declare {total}")
        return
    if available < total:
        raise Refusal("truncated", f"{max(available, 0)} of {total} bytes")
    rest = start + total
    if header["start"] >= 0 and available > total + 16 and any(bytes(data[rest : rest + 4096])):
        raise Refusal("corrupt", f"{available} bytes where the header declares {total}")


def read_stored(data: Buffer, header: dict[str, Any]) -> np.ndarray:
    """Stored values in the file's axes, Fortran order, read-only; the whole file is verified.

    Args:
        data: of the file that holds them.
        header: as for `check_content`, and `shape`, `dtype` and `offset` (bytes before the values, within the unpacked bytes).

    Raises:
        Refusal: `truncated`, `corrupt` (checksum, stray bytes) or `bomb`.
    """
    check_content(data, header)
    start = header["start"] if header["start"] >= 0 else len(data) - header["bytes"]
    if header["packed"]:
        data, start = unpacked(data, start, header["bytes"]), 0  # type: ignore[assignment]
    count = math.prod(header["shape"])
    stored = np.frombuffer(data, dtype=np.dtype(header["dtype"]), count=count, offset=start + header["offset"])
    return stored.reshape(header["shape"], order="F")


def unpacked(data: Buffer, start: int, total: int) -> bytearray:
    """The `total` bytes in the gzip or zlib stream from byte `start`; a few zeros may follow them.

    Raises:
        Refusal: `truncated`, `corrupt` or `bomb`.
    """
    content = bytearray(total)
    filled = 0
    for chunk in _inflated(data, start):
        if filled + len(chunk) > total:
            extra = filled + len(chunk) - total
            if extra > 65536 or any(chunk[len(chunk) - extra :]):
                raise Refusal("bomb", f"more than the {total} bytes that the header declares")
            chunk = chunk[: len(chunk) - extra]
        content[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    if filled < total:
        raise Refusal("truncated", f"{filled} of {total} bytes")
    return content


def first_bytes(data: Buffer, count: int) -> bytes:
    """The first `count` bytes of a gzip file's content.

    Raises:
        Refusal: `corrupt`.
    """
    inflater = zlib.decompressobj(31)
    try:
        return inflater.decompress(bytes(data[:65536]), count)
    except zlib.error:
        raise Refusal("corrupt", "the gzip stream") from None


def _inflated(data: Buffer, start: int) -> Iterator[bytes]:
    """Chunks of one or more streams; each one's checksum and length are verified at its end."""
    offset = start
    while offset < len(data):
        if offset > start and not any(bytes(data[offset : offset + 4096])):
            return
        inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
        pending = b""
        while not inflater.eof:
            if not pending:
                pending = bytes(data[offset : offset + _CHUNK])
                offset += len(pending)
                if not pending:
                    raise Refusal("truncated", "the packed stream has no end")
            try:
                chunk = inflater.decompress(pending, _CHUNK)
            except zlib.error:
                raise Refusal("corrupt", "the packed stream or its checksum") from None
            pending = inflater.unconsumed_tail
            yield chunk
        offset -= len(inflater.unused_data)
