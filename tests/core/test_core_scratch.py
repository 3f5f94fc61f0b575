"""A copy in the scratch folder has the artefact's bytes, is made once, and its absence or damage changes nothing."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from medssl.core.errors import CorruptArtefactError
from medssl.core.files import write_text
from medssl.core.job import Spec, job
from medssl.core.scratch import VARIABLE, local_copy


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    """A file that an earlier stage wrote."""
    with job(spec(tmp_path, "prepare")) as work:
        write_text(work.path("array.npy"), "voxels")
        work.wrote(work.path("array.npy"))
        work.write_receipt()
        return work.path("array.npy")


def spec(tmp_path: Path, stage: str) -> Spec:
    root = tmp_path / "s"
    return Spec(
        stage=stage, name="ct", study="s", root=str(root), seed=0, code="c", options={}, inputs={}, out=str(root / stage)
    )  # fmt: skip


def read_from(tmp_path: Path, artefact: Path) -> Path:
    with job(spec(tmp_path, "pretrain")) as work:
        return local_copy(work, artefact)


def test_without_a_scratch_folder_the_file_itself_is_read(
    tmp_path: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_from(tmp_path, artefact) == artefact
    monkeypatch.setenv(VARIABLE, "$NO_SUCH_VARIABLE_HERE/x")
    assert read_from(tmp_path, artefact) == artefact


def test_the_node_puts_its_own_folder_in_and_a_copy_serves_all_jobs(
    tmp_path: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    monkeypatch.setenv(VARIABLE, "$NODE_DISK/caches")
    copy = read_from(tmp_path, artefact)
    assert copy.is_relative_to(tmp_path / "disk" / "caches") and copy.suffix == ".npy" and copy.read_text() == "voxels"
    made = copy.stat().st_mtime_ns
    assert read_from(tmp_path, artefact) == copy and copy.stat().st_mtime_ns == made
    copy.write_text("vox")  # cut short
    assert read_from(tmp_path, artefact).read_text() == "voxels"


def test_a_damaged_artefact_is_refused_before_it_is_copied(
    tmp_path: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "disk"))
    artefact.write_text("voxelz")
    with pytest.raises(CorruptArtefactError):
        read_from(tmp_path, artefact)


def test_a_full_scratch_disk_does_not_stop_a_job(tmp_path: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "disk"))

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert read_from(tmp_path, artefact) == artefact


def test_a_scratch_folder_that_cannot_be_made_or_is_not_ours_is_not_used(
    tmp_path: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "caches"))
    assert read_from(tmp_path, artefact) == artefact
    monkeypatch.setenv(VARIABLE, str(tmp_path / "caches"))
    assert read_from(tmp_path, artefact) != artefact
    somebody = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody)  # the folder of that name is still this user's
    (tmp_path / "caches" / f"medssl-{os.getuid()}").mkdir()
    assert read_from(tmp_path, artefact) == artefact
