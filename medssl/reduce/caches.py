"""Caches of costly results, named by the content and the code that they depend on."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from medssl.core.files import canonical_json, read_json, sha256_text
from medssl.core.job import RECEIPT
from medssl.reduce.cohort import Member


def cache_name(*content: Any) -> str:
    """24 hex digits that identify any JSON value."""
    return sha256_text(canonical_json(list(content)))[:24]


def content_of(member: Member) -> list[Any]:
    """What a result on a volume's slices depends on: the array's bytes as its receipt states them, window, planes."""
    array, window = member.volume.array, member.window
    receipt = array.parents[1] / RECEIPT
    outputs = _outputs(receipt, receipt.stat().st_mtime_ns) if receipt.is_file() else {}
    entry = outputs.get(str(array.relative_to(receipt.parent)))
    if entry is None:
        info = array.stat()
        entry = {"size": info.st_size, "time_ns": info.st_mtime_ns}
    return [entry, [window.low, window.high, window.slope, window.intercept], member.axis, member.index.tolist()]


@lru_cache(maxsize=8)
def _outputs(receipt: Path, changed_ns: int) -> dict[str, Any]:
    """The outputs of a receipt, parsed once for all volumes of a source."""
    return dict(read_json(receipt)["outputs"])
