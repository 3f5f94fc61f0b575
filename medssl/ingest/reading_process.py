"""The process that reads hostile bytes: it receives requests line by line and answers only with numbers and codes.

It is forked by its parent (`reading_pool.py`), which has made the necessary imports, runs under limits of memory and time, and
dies alone. Nothing is pickled: requests and answers are JSON, arrays go into files that the parent names.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import resource
import signal
import traceback
from collections.abc import Callable
from typing import NoReturn

from medssl.core.listing import minted
from medssl.ingest import reading_dicom, reading_headers, reading_images, reading_nifti
from medssl.ingest.dicom.elements import text
from medssl.ingest.dicom.tags import SERIES_UID
from medssl.ingest.refusal import Answer, Refusal, Request

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DEBUG = "MEDSSL_READER_DEBUG"
"""Environment variable: print what went wrong, even if it contains hostile bytes."""
ANSWERS = 3
"""The file descriptor for answers."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment of libraries that are not loaded yet."""
MALLOC = {-8: 2, -1: 16 << 20, -3: 8 << 20}
"""Parameters of mallopt in malloc.h. M_ARENA_MAX: every arena takes address space, which the limit counts. M_TRIM_THRESHOLD and
M_MMAP_THRESHOLD: the memory of a slice is used again for the next one, instead of given back and faulted in page by page."""

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


def serve(key: bytes, requests: int, answers: int) -> NoReturn:
    """Answer what comes from the reading end of one pipe on the writing end of another, until the first is closed.

    Args:
        key: of the ids.
        requests, answers: the descriptors.
    """
    try:
        _leave_parent(requests, answers)
        with open(0, "rb") as lines, open(ANSWERS, "wb") as file:
            for line in lines:
                request = json.loads(line)
                for one in request["batch"]:
                    # above what the process holds now, libraries of earlier tasks included
                    limit = _address_space() + int(request["memory_mb"] * 1e6)
                    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
                    file.write(json.dumps(answer(request["task"], one, key)).encode() + b"\n")
                    file.flush()
    except BaseException:
        if DEBUG in os.environ:
            traceback.print_exc()
    finally:
        os._exit(0)  # nothing that the parent has open, or means to do at its end, is for this process


def _leave_parent(requests: int, answers: int) -> None:
    """Keep nothing of the parent but its modules: no open file, no exit handlers, no garbage to collect."""
    gc.freeze()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    # decoders in C print to standard output and error; their output must not leave
    silent = os.open(os.devnull, os.O_WRONLY)
    kept = [requests, silent, 2 if DEBUG in os.environ else silent, answers]
    for place, descriptor in enumerate([os.dup(one) for one in kept]):
        os.dup2(descriptor, place)
    os.closerange(len(kept), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.environ.update(ONE_THREAD)
    for parameter, value in MALLOC.items():
        ctypes.CDLL(None).mallopt(parameter, value)


def answer(task: str, request: Request, key: bytes) -> Answer:
    """The answer to one request: the result, or `code` and `sentence` of a refusal."""
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
        if DEBUG in os.environ:
            raise
        # unforeseen damage: the exception's name is safe, but its text may hold a value of the file
        return Refusal("corrupt", f"{type(error).__name__} while reading").answer()


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
