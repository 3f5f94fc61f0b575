"""Files beside a series that are not read: reported in the ledger, on the screen and at the end of ingest."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from faults import faults_unread
from phantoms import datasets, random_phantom, save

from medssl.ingest.checking import check_source
from medssl.ingest.summary import as_values, screen_lines


def _series(folder: Path) -> Path:
    save(datasets(random_phantom(1)), folder)
    return folder


def _archive(folder: Path, name: str) -> None:
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("0099.dcm", b"x")


@pytest.mark.parametrize("case", ["archive", "link", "part"])
def test_what_is_not_read_beside_a_series_is_reported(case: str, tmp_path: Path) -> None:
    folder = _series(tmp_path / "source" / "ct")
    if case == "archive":
        _archive(folder, "rest.zip")
    elif case == "link":
        (tmp_path / "more").mkdir()
        (folder / "more").symlink_to(tmp_path / "more")
    else:
        (folder / "extra.dcm.part").write_bytes(b"\0" * 700)
    checked = check_source(tmp_path / "source")
    assert len(checked.series) == 1
    assert "unread_beside" in checked.series[0]["warnings"]
    assert sum(row["num_files"] for row in checked.rejected) == 1  # it has a separate row
    words = {"archive": "1 archive", "link": "1 link", "part": "1 file that looks like a part of a transfer that did not end"}
    (said,) = [remark for remark in checked.remarks if words[case] in remark]
    assert f"note: {said}" in list(screen_lines(checked))
    assert said in as_values(checked)["remarks"]


def test_what_lies_in_another_folder_is_not_said_of_a_series(tmp_path: Path) -> None:
    _series(tmp_path / "source" / "ct")
    _archive(tmp_path / "source", "rest.zip")
    checked = check_source(tmp_path / "source")
    assert checked.series[0]["warnings"] == []
    assert not checked.remarks


def test_harmless_classes_are_those_that_must_be_right(tmp_path: Path) -> None:
    sound = {name for name, fault in faults_unread.UNREAD_FAULTS.items() if fault(tmp_path / name, 3).must_be_right}
    assert sound == set(faults_unread.HARMLESS)


@pytest.mark.parametrize("name", ["end_unfinished", "end_packed", "end_stump_in_its_own_folder", "end_packed_in_its_own_folder"])
def test_an_end_that_is_not_read_refuses_its_series(name: str, tmp_path: Path) -> None:
    faults_unread.UNREAD_FAULTS[name](tmp_path / "case", 2)
    checked = check_source(tmp_path)
    assert not checked.series
    assert "damaged_neighbour" in {row["code"] for row in checked.rejected}
