"""A job is alone, checks what it reads, and writes its receipt last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from medssl.core.errors import CorruptArtefactError, LockedError, StudyError
from medssl.core.files import write_text
from medssl.core.job import COMMAND, Spec, job
from medssl.core.lock import hold
from medssl.core.receipts import incomplete
from medssl.study.workflow import command_line


def make_spec(tmp_path: Path, **changes: object) -> Spec:
    values: dict = dict(
        stage="prepare", name="ct", study="s", root=str(tmp_path / "s"), seed=0, code="c", options={}, inputs={},
        out=str(tmp_path / "s" / "2_prepare" / "ct"),
    )  # fmt: skip
    return Spec(**{**values, **changes})


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The output folder of a finished job with one table."""
    with job(make_spec(tmp_path)) as work:
        write_text(work.path("table.tsv"), "a\n1\n")
        work.wrote(work.path("table.tsv"))
        work.write_receipt()
    return work.out


def test_a_receipt_names_spec_outputs_and_versions(finished: Path) -> None:
    receipt = json.loads((finished / "receipt.json").read_text())
    assert set(receipt["outputs"]) == {"table.tsv"} and receipt["outputs"]["table.tsv"]["size"] == 4
    assert {"spec", "code", "seed", "inputs", "environment", "wall_s"} <= set(receipt)
    assert receipt["environment"]["numpy"]


def test_date_command_and_energy_are_in_no_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        COMMAND, command_line(["/some/where/snakemake", "-s", "/home/jane/Snakefile", "--config", "path=/data/DOE"])
    )
    spec = make_spec(tmp_path)
    with job(spec) as work:
        work.write_receipt()
    receipt = json.loads((work.out / "receipt.json").read_text())
    assert receipt["command"] == "snakemake -s Snakefile --config 'path=…'"
    assert date.fromisoformat(receipt["date"]) >= date(2026, 1, 1)
    assert isinstance(receipt["energy_j"], dict) and receipt["spec"] == spec.hash
    assert not {"date", "command", "energy_j"} & set(json.loads(spec.to_json()))


@pytest.mark.parametrize("damage", [b"a\n2\n", b"a\n", b""])
def test_a_changed_artefact_is_refused_and_names_the_stage(finished: Path, tmp_path: Path, damage: bytes) -> None:
    (finished / "table.tsv").write_bytes(damage)
    reader = make_spec(tmp_path, stage="reduce", out=str(tmp_path / "s" / "3"))
    with job(reader) as work, pytest.raises(CorruptArtefactError, match="'prepare'"):
        work.read(finished / "table.tsv")


def test_an_artefact_without_receipt_is_refused(finished: Path, tmp_path: Path) -> None:
    (finished / "receipt.json").unlink()
    reader = make_spec(tmp_path, stage="reduce", out=str(tmp_path / "s" / "3"))
    with job(reader) as work, pytest.raises(StudyError, match="not finished"):
        work.read(finished / "table.tsv")


def test_a_receipt_without_one_of_its_outputs_is_incomplete(finished: Path, tmp_path: Path) -> None:
    assert list(incomplete(tmp_path / "s")) == []
    (finished / "table.tsv").unlink()
    assert list(incomplete(tmp_path / "s")) == [(finished / "receipt.json", finished / "table.tsv")]


def test_a_table_that_was_written_to_is_incomplete_and_a_touched_one_is_not(finished: Path, tmp_path: Path) -> None:
    later_ns = (finished / "receipt.json").stat().st_mtime_ns + 1
    os.utime(finished / "table.tsv", ns=(later_ns, later_ns))
    assert list(incomplete(tmp_path / "s")) == []
    with open(finished / "table.tsv", "r+") as file:
        file.write("a\n2")
    os.utime(finished / "table.tsv", ns=(later_ns, later_ns))
    assert list(incomplete(tmp_path / "s")) == [(finished / "receipt.json", finished / "table.tsv")]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stage": "prepare"}'])
def test_a_damaged_receipt_is_refused_and_incomplete(finished: Path, tmp_path: Path, text: str) -> None:
    receipt = finished / "receipt.json"
    receipt.write_text(text)
    reader = make_spec(tmp_path, stage="reduce", out=str(tmp_path / "s" / "3"))
    with job(reader) as work, pytest.raises(CorruptArtefactError, match="damaged"):
        work.read(finished / "table.tsv")
    assert list(incomplete(tmp_path / "s")) == [(receipt, receipt)]


def test_of_two_jobs_on_one_folder_one_waits_and_names_the_other(tmp_path: Path) -> None:
    lock = tmp_path / "s" / ".lock"
    with hold(lock), pytest.raises(LockedError, match="process"), hold(lock):
        pass
    with hold(lock):
        pass
    assert LockedError.exit_code == 6


def test_the_kernel_frees_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    lock = tmp_path / "s" / ".lock"
    program = (
        "import sys, time, pathlib\nfrom medssl.core.lock import hold\n"
        "with hold(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"held\n"
    process.kill()
    process.wait()
    with hold(lock):
        pass


def test_the_hash_of_a_spec_changes_with_each_field_but_not_with_where_sources_lie(tmp_path: Path) -> None:
    base = make_spec(tmp_path)
    assert make_spec(tmp_path, private={"path": "/x"}).hash == base.hash
    for change in ({"seed": 1}, {"code": "d"}, {"options": {"a": 1}}, {"inputs": {"x": "y"}}):
        assert make_spec(tmp_path, **change).hash != base.hash
    path = tmp_path / "spec.json"
    path.write_text(make_spec(tmp_path, private={"path": "/secret"}).to_json())
    assert "/secret" not in path.read_text()
    assert Spec.read(path) == base


def test_the_log_keeps_what_earlier_tries_wrote_until_one_succeeds(tmp_path: Path) -> None:
    spec, log = make_spec(tmp_path), tmp_path / "s" / "logs" / "prepare" / "ct.log"
    for line in ("first", "second"):
        with pytest.raises(RuntimeError), job(spec, log_path=log) as work:
            work.log(line)
            raise RuntimeError
        log.unlink()  # as Snakemake does before each try
    with job(spec, log_path=log) as work:
        work.log("third")
    again = "--- a new try begins"
    assert log.read_text().splitlines() == ["first", again, "second", again, "third"]
    log.unlink()
    with job(spec, log_path=log) as work:
        work.log("of other options")
    assert log.read_text() == "of other options\n"


def test_how_a_person_watches_a_job_is_in_its_file_and_in_no_hash(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, stage="pretrain")
    watched = make_spec(tmp_path, stage="pretrain", watch={"loggers": ["wandb"]})
    assert spec.hash == watched.hash and "wandb" in watched.to_json()
    with job(spec) as one, job(watched, part="b") as other:
        assert one.key is not None and one.key == other.key
