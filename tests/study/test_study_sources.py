"""What may have changed in a source without its name, size or time is said once; a label table is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medssl.core.layout import Layout
from medssl.ingest.options import IngestOptions
from medssl.study.source_files import SourceFiles
from medssl.study.sources import refresh

KEY = b"0123456789abcdef"
LAYOUT = Layout(Path("results/s"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("scans/a.nii", "scans/deep/b.nii", "masks/a_seg.nii", "masks/b_seg.nii"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name[-5:])
        os.utime(name, ns=(10**18, 10**18))
    assert looked() == []
    clock = Path("clock")
    clock.touch()
    begin_ns = clock.stat().st_ctime_ns
    while clock.stat().st_ctime_ns == begin_ns:  # the clock of files goes in steps
        clock.touch()
    return tmp_path


def looked(labels: str = "masks") -> list[str]:
    return refresh(LAYOUT, "ct", SourceFiles.of("ct", "scans", labels, IngestOptions()), KEY, labels=labels)


def digests() -> tuple[str, str]:
    return Path(LAYOUT.listing("ct")).read_text(), Path(LAYOUT.label_listing("ct")).read_text()


def test_a_file_that_was_rewritten_at_its_size_and_time_is_reported_once() -> None:
    before = digests()
    assert looked() == []
    file = Path("scans/deep/b.nii")
    file.write_text("other")
    os.utime(file, ns=(10**18, 10**18))
    (note,) = looked()
    assert "sources.ct.path: 1 of 2 files" in note and "touch" in note and "deep" not in note
    assert digests() == before and looked() == []
    file.touch()
    assert looked() == [] and digests()[0] != before[0]


def test_masks_that_were_exchanged_at_equal_size_and_time_are_reported() -> None:
    before = digests()
    a, b, aside = (Path("masks") / name for name in ("a_seg.nii", "b_seg.nii", "aside"))
    a.rename(aside)
    b.rename(a)
    aside.rename(b)
    (note,) = looked()
    assert "sources.ct.labels: 2 of 2 files" in note and digests() == before
    Path("masks/c_seg.nii").write_text("new")
    assert looked() == [] and digests()[1] != before[1], "a new file is a change that is seen"


def test_a_label_table_that_was_rewritten_at_its_size_and_time_is_another() -> None:
    table = Path("labels.csv")
    found = set()
    for text in ("id,label\na,x\n", "id,label\na,y\n"):
        table.write_text(text)
        os.utime(table, ns=(10**18, 10**18))
        assert looked("labels.csv") == []
        found.add(digests()[1])
    assert len(found) == 2
