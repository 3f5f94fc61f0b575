"""The kind of a file, by its content: opened without following links, and without waiting on a pipe."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path

from medssl.ingest.dicom.elements import Buffer, looks_like_dicom
from medssl.ingest.refusal import Refusal, Request

_ARCHIVES = (
    (0, b"PK\x05\x06"),
    (257, b"ustar"),
    (0, b"7z\xbc\xaf"),
    (0, b"Rar!"),
    (0, b"BZh"),
    (0, b"\xfd7zXZ"),
    (0, b"\x28\xb5\x2f\xfd"),
)


class Mapped(mmap.mmap):
    """A mapped file that archive readers accept as a file: before Python 3.13 a map lacks `seekable` and a result of `seek`."""

    def seekable(self) -> bool:
        """True: it can be read at any place."""
        return True

    def seek(self, pos: int, whence: int = os.SEEK_SET) -> int:  # type: ignore[override]
        """Move to a place and return it."""
        super().seek(pos, whence)  # type: ignore[arg-type]
        return self.tell()


READ_MOST = 1 << 21
"""Bytes up to which a file is read whole: mapping all its pages costs more than the copy."""
READ_FOR_HEADER = 1 << 16
"""The same if only its beginning is read."""


def open_bytes(path: str | Path) -> Buffer:
    """The bytes of a regular file, mapped, not read.

    Raises:
        Refusal: `empty`, `link`, `special_file`, `changed` or `unreadable`.
    """
    return _open(path, READ_MOST)[0]


def _open(path: str | Path, read_most: int) -> tuple[Buffer, int]:
    """The bytes of a regular file, and the time of its last change in ns."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _refusal(error) from None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise Refusal("special_file")
        if info.st_size == 0:
            raise Refusal("empty")
        if info.st_size <= read_most:
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                return file.read(), info.st_mtime_ns
        return Mapped(descriptor, 0, access=mmap.ACCESS_READ), info.st_mtime_ns
    except OSError as error:
        raise _refusal(error) from None
    finally:
        os.close(descriptor)


def _refusal(error: OSError) -> Refusal:
    """Why the operating system could not open a file, in its own words."""
    if error.errno == errno.ELOOP:
        return Refusal("link")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Refusal("changed", "it is there no longer")
    return Refusal("unreadable", os.strerror(error.errno or 0).lower())


def open_listed(file: Request, read_most: int = READ_MOST) -> Buffer:
    """The bytes of a listed file (`path`, `size`, `mtime_ns`), if it has not changed since.

    Raises:
        Refusal: `changed`, or what `open_bytes` raises.
    """
    data, mtime_ns = _open(file["path"], read_most)
    if len(data) != file["size"]:
        raise Refusal("changed", f"{len(data)} bytes, {file['size']} when it was listed")
    if mtime_ns != file.get("mtime_ns", mtime_ns):
        raise Refusal("changed", "it was written again after it was listed")
    return data


def kind_of(data: Buffer) -> str:
    """`dicom`, `nifti`, `nrrd`, `metaimage`, `gzip` (a NIfTI, if anything), `png`, `jpeg` or `npz`.

    Raises:
        Refusal: `archive`, `truncated` or `not_an_image`.
    """
    head = bytes(data[:400])
    if looks_like_dicom(head):
        return "dicom"
    if len(head) >= 348 and (head[344:348] in (b"n+1\0", b"ni1\0") or head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c")):
        return "nifti"
    if head[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") and head[4:7] in (b"n+2", b"ni2"):
        return "nifti"
    if head[:6] == b"NRRD00":
        return "nrrd"
    if head.lstrip()[:10] == b"ObjectType" or (b"NDims" in head and b"DimSize" in head):
        return "metaimage"
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:4] == b"PK\x03\x04":
        return "zip"
    if any(head[offset : offset + len(mark)] == mark for offset, mark in _ARCHIVES):
        raise Refusal("archive")
    if len(head) < 132 and not any(head[:128]) and b"DICM".startswith(head[128:]):
        raise Refusal("truncated", f"{len(head)} bytes")
    if _was_dicom(head):
        raise Refusal("corrupt", "the mark DICM at byte 128 is damaged or out of place")
    if (len(data) == len(head) and not any(head)) or not any(bytes(data[: 1 << 16])):
        raise Refusal("corrupt", f"{len(data)} bytes of zeros")
    raise Refusal("not_an_image")


def _was_dicom(head: bytes) -> bool:
    """Whether a file begins like DICOM without the mark: the mark elsewhere, or meta information after 132 bytes."""
    return (
        b"DICM" in head or head[132:138] in (b"\2\0\0\0UL", b"\2\0\1\0OB") or (not any(head[:128]) and head[132:134] == b"\2\0")
    )
