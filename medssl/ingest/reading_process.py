"""The process that touches hostile bytes: it reads requests line by line and answers with numbers and codes only.

It runs under limits of memory and time set by its parent (`reading_pool.py`), and dies alone. Nothing is pickled on the way:
requests and answers are JSON, arrays go into files that the parent names.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from collections.abc import Callable

from medssl.core.listing import minted
from medssl.ingest import reading_dicom, reading_headers, reading_images, reading_nifti
from medssl.ingest.check import found_checks
from medssl.ingest.dicom.elements import text
from medssl.ingest.dicom.tags import SERIES_UID
from medssl.ingest.refusal import Answer, Refusal, Request

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

TASKS: dict[str, Callable[[Request, bytes], Answer]] = {
    "scan": reading_headers.scan,
    "digest": reading_dicom.digest,
    "sample": reading_dicom.sample,
    "volume": reading_dicom.volume,
    "label": reading_dicom.label,
    "nifti": reading_nifti.nifti,
    "pictures": reading_images.pictures,
    "npz": reading_images.npz,
}
"""What a request may ask for: (request, id key) → answer."""


def main() -> None:
    """Answer requests until standard input ends. The first line holds the id key."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    # decoders written in C print to standard output and error; nothing they say may leave
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    if os.environ.get("MEDSSL_READER_DEBUG") is None:
        os.dup2(silent, 2)
    key = bytes.fromhex(json.loads(sys.stdin.readline())["key"])
    found_checks()  # imported now, so that it counts against no file's memory
    for line in sys.stdin:
        request = json.loads(line)
        for one in request["batch"]:
            # above what the process holds now, libraries of earlier tasks included
            limit = _address_space() + int(request["memory_mb"] * 1e6)
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            answers.write(json.dumps(answer(request["task"], one, key)) + "\n")


def answer(task: str, request: Request, key: bytes) -> Answer:
    """The answer to one request: what was asked for, or `code` and `sentence` of a refusal."""
    try:
        return TASKS[task](request, key)
    except Refusal as refusal:
        series = text(refusal.values.get(SERIES_UID, b""))
        return refusal.answer() | ({"series": minted(key, "s", series)} if series else {})
    except MemoryError:
        return Refusal("too_large").answer()
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return {"errno": error.errno}
        if os.environ.get("MEDSSL_READER_DEBUG") is not None:
            raise
        # an unforeseen form of damage: the name of the exception is ours, its text may hold a value of the file
        return Refusal("corrupt", f"{type(error).__name__} while reading").answer()


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
