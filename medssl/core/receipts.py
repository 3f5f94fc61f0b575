"""What receipts say about files: whether a file is unchanged, and which results are incomplete."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.core.files import canonical_json, read_json, sha256_file, sha256_text
from medssl.core.store import RECEIPT, read_receipt


def refuse_damaged(path: Path) -> None:
    """Refuse a file that differs from the receipt beside or above it; a file taken out of its study has none.

    Raises:
        CorruptArtefactError: it differs.
    """
    with contextlib.suppress(StudyError):
        verified_hash(path)


def verified_hash(path: Path) -> str | None:
    """The hash of an artefact whose bytes match its receipt; None if the receipt does not list it.

    Raises:
        CorruptArtefactError: the file does not match the receipt beside it (or above it).
        StudyError: there is no receipt.
    """
    entry, receipt = _receipt_entry(path)
    if entry is None:
        return None
    actual = sha256_file(path) if path.is_file() and path.stat().st_size == entry["size"] else None
    if actual is None or actual != entry["sha256"]:
        stage = read_json(receipt)["stage"]
        raise CorruptArtefactError(
            f"{path} is not the file that stage {stage!r} wrote (size or sha256 differs from {receipt}). "
            f"Delete {receipt} and run the same command again to rebuild it."
        )
    return actual


def receipt_of_folder(path: Path | str) -> Path:
    """The receipt of the job that writes a folder of files; it lies beside the folder."""
    return Path(path).parent / RECEIPT


def incomplete(root: Path) -> Iterator[tuple[Path, Path]]:
    """Receipts that must be removed for the DAG to redo results, each with its first file that is damaged, missing or changed."""
    for receipt in sorted(root.glob("[1-7]_*/**/" + RECEIPT)):
        stated = read_receipt(receipt)
        if stated is None:
            yield receipt, receipt
            continue
        made_ns = receipt.stat().st_mtime_ns
        for name, entry in stated["outputs"].items():
            if not _is_as_made(receipt.parent / name, entry, made_ns if "/" not in name else None):
                yield receipt, receipt.parent / name
                break


def _is_as_made(path: Path, entry: dict[str, Any], made_ns: int | None) -> bool:
    """Whether an output exists with its size, and with its bytes if it was written after `made_ns`.

    Without `made_ns` bytes are not read. That is for arrays: they are many, write-protected, and checked when they are read.
    """
    if not path.is_file() or path.stat().st_size != entry["size"]:
        return False
    return made_ns is None or path.stat().st_mtime_ns <= made_ns or sha256_file(path) == entry["sha256"]


def stated_hash(path: Path) -> str | None:
    """Hash of an artefact as its receipt states it, or of all files of a folder; None if no receipt does."""
    if is_artefact_file(path):
        for folder in list(path.parents)[:4]:
            if (folder / RECEIPT).is_file():
                entry = _outputs(folder / RECEIPT, (folder / RECEIPT).stat().st_mtime_ns).get(str(path.relative_to(folder)))
                return None if entry is None else str(entry["sha256"])
        return None
    receipt = receipt_of_folder(path)
    if not receipt.is_file():
        return None
    listed = _outputs(receipt, receipt.stat().st_mtime_ns)
    within = {name: entry["sha256"] for name, entry in listed.items() if name.startswith(f"{path.name}/")}
    return sha256_text(canonical_json(within))


def is_artefact_file(path: Path | str) -> bool:
    """Whether an input that a job of the study made is a file; a folder such as `2_prepare/ct/arrays` has no suffix.

    For artefacts only, whose names are ours (`core/layout.py`): a file that the study file names may have any name.
    """
    return Path(path).suffix != ""


def _receipt_entry(path: Path) -> tuple[dict[str, Any] | None, Path]:
    for folder in list(path.parents)[:4]:
        receipt = folder / RECEIPT
        if receipt.is_file():
            outputs = _outputs(receipt, receipt.stat().st_mtime_ns)
            return outputs.get(str(path.relative_to(folder))), receipt
    raise StudyError(f"{path} has no {RECEIPT} beside it: the stage that makes it has not finished. Run the same command again.")


@functools.lru_cache(maxsize=8)
def _outputs(receipt: Path, changed_ns: int) -> dict[str, Any]:
    """The outputs of a receipt, parsed once: a job may read thousands of files of one receipt.

    Raises:
        CorruptArtefactError: the receipt is damaged.
    """
    try:
        return dict(read_json(receipt)["outputs"])
    except (ValueError, KeyError, TypeError):
        raise CorruptArtefactError(
            f"{receipt} is damaged. Delete it and run the same command again to make what it lists again."
        ) from None
