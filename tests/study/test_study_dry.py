"""A dry run leaves every file, time and folder as it found them."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medssl.core.errors import LockedError
from medssl.core.files import write_json, write_text
from medssl.core.layout import Layout
from medssl.core.lock import hold
from medssl.study import dry, workflow
from medssl.study.dag import Dag
from medssl.study.dry import leaving_nothing
from medssl.study.file import load_study
from medssl.study.sources import refresh_sources

STUDY = {"study": "s", "sources": {"ct": {"path": "scans"}}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "scans" / "a.dcm", "x")
    return tmp_path


def seen(folder: Path) -> dict[str, tuple[bytes, int, int] | None]:
    """Content, time and mode of every file, and every folder."""
    found: dict[str, tuple[bytes, int, int] | None] = {}
    for path in folder.rglob("*"):
        info = path.stat()
        found[str(path.relative_to(folder))] = (path.read_bytes(), info.st_mtime_ns, info.st_mode) if path.is_file() else None
    return found


def plan(study: dict) -> Layout:
    """What a run writes before its jobs start."""
    dag = Dag(load_study(study))
    refresh_sources(dag.study, dag.layout)
    dag.write_specs()
    return dag.layout


def test_where_nothing_was_nothing_is_left(folder: Path) -> None:
    before = seen(folder)
    with leaving_nothing(Layout(Path("results/s"))):
        plan(STUDY)
        assert (folder / "results/s/specs/ingest/ct.json").is_file()
    assert seen(folder) == before


def test_what_another_study_writes_meanwhile_stays(folder: Path) -> None:
    other, key = folder / ".medssl" / "other" / "ct" / "listing.jsonl", folder / ".medssl" / "id_key"
    write_text(other, "old")
    with leaving_nothing(Layout(Path("results/s"))):
        plan(STUDY)
        write_text(other, "new")
        write_text(other.with_name("groups"), "new")
        made = key.read_bytes()
    assert other.read_text() == other.with_name("groups").read_text() == "new"
    assert key.read_bytes() == made


def test_of_a_study_that_ran_every_file_keeps_its_content_and_time(folder: Path) -> None:
    layout = plan(STUDY)
    write_text(layout.root / "1_ingest" / "ct" / "series.tsv", "made by a job")
    os.utime(layout.spec("prepare", "ct"), (1, 1))
    before = seen(folder)
    edited = {**STUDY, "seed": 5, "pretrain": {"moco": {"objective": "moco"}}}
    write_text(folder / "scans" / "b.dcm", "new")
    with leaving_nothing(layout):
        plan(edited)
        assert Path(layout.spec("pretrain", "ct/moco-hash-seed0")).is_file()
        assert Path(layout.spec("prepare", "ct")).stat().st_mtime_ns > 10**9 * 2
    (folder / "scans" / "b.dcm").unlink()
    assert seen(folder) == before


def write_receipt(layout: Layout, size: int) -> Path:
    """A finished job with one output of a byte, whose receipt says that it has `size`."""
    folder = layout.root / "2_prepare" / "ct"
    write_text(folder / "arrays" / "v.npy", "x")
    receipt = {"stage": "prepare", "name": "ct", "spec": "0", "outputs": {"arrays/v.npy": {"size": size, "sha256": "0"}}}
    write_json(folder / "receipt.json", receipt)
    return folder / "receipt.json"


@pytest.mark.parametrize(("size", "gone"), [(1, False), (2, True)])
def test_it_plans_without_the_receipts_that_a_real_run_drops_and_they_come_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, size: int, gone: bool
) -> None:
    receipt = write_receipt(plan(STUDY), size)
    os.utime(receipt, (1, 1))
    before = seen(folder)
    for asked in (SimpleNamespace(targets=[], dryrun=True), SimpleNamespace(targets=[])):
        assert seen(folder) == before
        with contextlib.ExitStack() as held:
            monkeypatch.setattr(workflow, "_held", held)
            workflow.open_study(SimpleNamespace(configfiles=[], is_main_process=True), STUDY, asked)
            assert receipt.is_file() is not gone
    assert receipt.is_file() is not gone


def test_the_folder_is_as_before_where_snakemake_has_left_it_at_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --directory, that is; and the last line says what the plan was worth."""
    write_receipt(plan(STUDY), 1)
    before = seen(folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    held = contextlib.ExitStack()
    monkeypatch.setattr(workflow, "_held", held)
    asked = SimpleNamespace(targets=[], dryrun=True)
    workflow.open_study(SimpleNamespace(configfiles=[], is_main_process=True), {**STUDY, "seed": 5}, asked)
    monkeypatch.chdir(elsewhere)
    held.close()
    assert Path.cwd() == elsewhere and not any(elsewhere.iterdir())
    assert "checked: no mistakes found, 1 note above the list. No job has started." in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.chdir(folder)
    assert seen(folder) == before


def test_results_may_lie_on_another_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = plan(STUDY)
    write_receipt(layout, 2)
    before = seen(folder)

    def on_one_disk(step: Callable[..., Any]) -> Callable[..., Any]:
        def checked(source: Any, target: Any) -> None:
            if len({"results" in Path(path).parts for path in (source, target)}) == 2:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            step(source, target)

        return checked

    for step in ("link", "replace"):
        monkeypatch.setattr(os, step, on_one_disk(getattr(os, step)))
    with leaving_nothing(layout):
        plan({**STUDY, "seed": 5})
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert seen(folder) == before


def test_an_error_inside_is_taken_back_too(folder: Path) -> None:
    before = seen(folder)
    with pytest.raises(ZeroDivisionError), leaving_nothing(Layout(Path("results/s"))):
        plan(STUDY)
        raise ZeroDivisionError
    assert seen(folder) == before


PLANS_AND_WAITS = """
import sys, time
from types import SimpleNamespace
from medssl.study import workflow
asked = SimpleNamespace(targets=[], dryrun=True)
workflow.open_study(SimpleNamespace(configfiles=["mine.yaml"], is_main_process=True), None, asked)
print("planned", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "ran"), [(signal.SIGTERM, False), (signal.SIGHUP, True), (signal.SIGINT, False)])
def test_whatever_signal_ends_a_dry_run_nothing_is_left(folder: Path, number: signal.Signals, ran: bool) -> None:
    (folder / "mine.yaml").write_text("study: s\nsources: {ct: {path: scans}}\npretrain: {moco: {objective: moco}}\n")
    if ran:
        os.utime(plan(STUDY).spec("prepare", "ct"), (1, 1))
    before = seen(folder)
    process = subprocess.Popen([sys.executable, "-c", PLANS_AND_WAITS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None and process.stdout.readline() == b"planned\n"
    assert (folder / "results/s/specs/pretrain/ct/moco-hash-seed0.json").is_file()
    process.send_signal(number)
    assert process.wait(60) != 0
    assert seen(folder) == before


def test_a_signal_while_it_begins_or_ends_leaves_nothing_either(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(STUDY)
    before = seen(folder)
    for step in ("_names_kept", "_restore"):
        done = getattr(dry, step)

        def interrupted(*arguments: Any, done: Callable[..., Any] = done) -> Any:
            signal.raise_signal(signal.SIGTERM)
            result = done(*arguments)
            signal.raise_signal(signal.SIGHUP)
            return result

        monkeypatch.setattr(dry, step, interrupted)
        with contextlib.suppress(SystemExit), leaving_nothing(Layout(Path("results/s"))):
            plan({**STUDY, "seed": 5})
        monkeypatch.setattr(dry, step, done)
        assert seen(folder) == before, step


def test_not_while_another_program_works_on_the_study(folder: Path) -> None:
    layout = plan(STUDY)
    before = seen(folder)
    with hold(layout.root / ".lock"), pytest.raises(LockedError, match="in use"), leaving_nothing(layout):
        pass
    (layout.root / ".lock").unlink()
    assert seen(folder) == before
