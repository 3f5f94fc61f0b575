"""Receipts for folders that a test wrote by hand."""

from __future__ import annotations

from pathlib import Path

from medssl.core.files import sha256_file, write_json


def receipt(folder: Path, stage: str) -> None:
    """A receipt over all files of a folder, as the stage that made them would leave it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "receipt.json")
    outputs = {str(p.relative_to(folder)): {"sha256": sha256_file(p), "size": p.stat().st_size} for p in files}
    write_json(folder / "receipt.json", {"stage": stage, "outputs": outputs})
