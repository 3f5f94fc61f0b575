"""The DAG as its users meet it: run, run again, edit, delete, add, kill, and mistakes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm
from pydicom.uid import UID

from medssl.core.files import read_json, sha256_file

ROOT = Path(__file__).resolve().parent.parent.parent
STUDY = """\
study: small
id_key: {key}
sources:
  ct:
    path: scans
prepare:
  window_hu: [[-1000, 400]]
reduce:
  arms:
    hash: {{threshold: 6}}
  controls: false
pretrain:
  simclr:
    backbone: {{resnet18: {{width: 0.25}}}}
    size: [32, 32]
    batch_size: 4
    max_steps: {steps}
    checkpoint_every_s: 0.01
"""


def snakemake(folder: Path, *arguments: str, study: str = "mine.yaml") -> subprocess.CompletedProcess[str]:
    line = command(folder, *arguments, study=study, python=warm.python())
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=500)


def command(folder: Path, *arguments: str, study: str = "mine.yaml", python: str = sys.executable) -> list[str]:
    start = [python, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2"]
    return [*start, *(arguments or ("pretrain_ct",)), "--configfile", str(folder / study)]


def make_folder(folder: Path, steps: int = 6) -> Path:
    """A working folder with twelve slices of a bundled scan and a study file."""
    (folder / "scans").mkdir(parents=True)
    for file in sorted((ROOT / "demo" / "ct" / "demo1").iterdir())[10:22]:
        shutil.copy(file, folder / "scans")
    (folder / "mine.yaml").write_text(STUDY.format(key=ROOT / "demo" / "id_key", steps=steps))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """What must be the same however often a run was stopped."""
    wanted = ["1_ingest/ct/series.tsv", "2_prepare/ct/volumes.tsv", "3_reduce/ct/hash/keep.parquet"]
    wanted += ["4_pretrain/ct/simclr-hash-seed0/encoder.safetensors"]
    return {name: sha256_file(folder / "results" / "small" / name) for name in wanted}


def specs(folder: Path) -> dict[Path, bytes]:
    """The specs of the last real run, which a dry run leaves."""
    return {path: path.read_bytes() for path in (folder / "results" / "small" / "specs").rglob("*.json")}


def ran(output: str) -> set[str]:
    """Names of the rules that a run executed (or a dry run would)."""
    return {
        line.split("rule ")[1].rstrip(":")
        for line in output.splitlines()
        if line.startswith(("rule ", "localrule ")) and ":" in line
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("study"))
    done = snakemake(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "encoder.safetensors" in done.stderr and "report.html" in done.stderr
    return folder


def test_the_main_job_leaves_encoder_curve_and_page(finished: Path) -> None:
    results = finished / "results" / "small"
    run = results / "4_pretrain" / "ct" / "simclr-hash-seed0"
    assert (run / "encoder.safetensors").stat().st_size > 100_000
    assert len((run / "curve.tsv").read_text().splitlines()) >= 2
    page = (results / "7_report" / "ct" / "report.html").read_text()
    assert "http-equiv" in page and "<script src" not in page
    for receipt in results.glob("[1-7]_*/**/receipt.json"):
        for name, entry in read_json(receipt)["outputs"].items():
            assert sha256_file(receipt.parent / name) == entry["sha256"], (receipt, name)


def test_no_path_or_name_of_the_source_is_in_the_results(finished: Path) -> None:
    for path in (finished / "results").rglob("*"):
        if path.is_file() and path.suffix in {".json", ".tsv", ".log", ".html", ".md"}:
            text = path.read_text(errors="ignore")
            assert "scans" not in text and "DEMO1" not in text, path


def test_a_second_run_has_nothing_to_do(finished: Path) -> None:
    done = snakemake(finished)
    assert done.returncode == 0 and "Nothing to be done" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("old", "new", "rules"),
    [
        ("batch_size: 4", "batch_size: 5", {"pretrain", "page", "pretrain_ct"}),
        ("threshold: 6", "threshold: 5", {"reduce", "pretrain", "page", "pretrain_ct"}),
        ("[-1000, 400]", "[-900, 400]", {"prepare", "reduce_describe", "reduce", "pretrain", "page", "pretrain_ct"}),
    ],
)
def test_an_edited_option_reruns_exactly_what_depends_on_it(finished: Path, old: str, new: str, rules: set[str]) -> None:
    before, study = specs(finished), finished / "edited.yaml"
    study.write_text((finished / "mine.yaml").read_text().replace(old, new))
    planned = snakemake(finished, "pretrain_ct", "-n", "--quiet", "progress", study="edited.yaml")
    assert planned.returncode == 0, planned.stderr[-2000:]
    assert ran(planned.stdout + planned.stderr) == rules
    assert specs(finished) == before


def test_a_chained_run_waits_for_the_run_before_it(finished: Path) -> None:
    before, study = specs(finished), finished / "chained.yaml"
    text = (finished / "mine.yaml").read_text()
    chained = "  second: {init_run: simclr, backbone: {resnet18: {width: 0.25}}, size: [32, 32], batch_size: 4, max_steps: 1}\n"

    def planned(text: str) -> list[str]:
        study.write_text(text)
        done = snakemake(finished, "pretrain_ct", "-n", "--quiet", "progress", study="chained.yaml")
        return (done.stdout + done.stderr).split("\nrule pretrain:")[1:]

    (second,) = planned(text + chained)
    assert "second-hash-seed0" in second and "simclr-hash-seed0/encoder.safetensors" in second.split("output:")[0]
    assert len(planned(text.replace("batch_size: 4", "batch_size: 5") + chained)) == 2
    assert specs(finished) == before


def test_deleted_artefacts_are_rebuilt_as_planned_and_a_new_corrupt_file_becomes_a_row(finished: Path) -> None:
    before = hashes(finished)
    shutil.rmtree(finished / "results" / "small" / "1_ingest" / "ct" / "volumes")
    (finished / "results" / "small" / "3_reduce" / "ct" / "hash" / "keep.parquet").unlink()
    (finished / "scans" / "other").mkdir()
    (finished / "scans" / "other" / "extra.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"nonsense")
    planned, done = (snakemake(finished, "pretrain_ct", "--quiet", "progress", *dry) for dry in (["-n"], []))
    assert planned.returncode == done.returncode == 0, done.stderr[-3000:]
    assert ran(planned.stdout + planned.stderr) == ran(done.stdout + done.stderr) != set()
    assert hashes(finished) == before
    assert list((finished / "results" / "small" / "1_ingest" / "ct" / "volumes").glob("*/image.npy"))
    rejected = (finished / "results" / "small" / "1_ingest" / "ct" / "rejected.tsv").read_text().splitlines()
    assert len(rejected) == 2 and "extra" not in rejected[1]
    shutil.rmtree(finished / "scans" / "other")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("sources: {ct: {path: scans}}\npretrain: {simclr: {epoch: 3}}\n", 2, "mine.yaml:2: pretrain.simclr.epoch: unknown key"),
        ("sources: {ct: {path: broken}}\n", 8, "refused"),
    ],
)
def test_a_mistake_stops_with_one_sentence_and_its_exit_code(tmp_path: Path, text: str, code: int, words: str) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.dcm").write_bytes(b"x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + UID("1.2.840.10008.1.2.1").encode())
    (tmp_path / "mine.yaml").write_text(text)
    done = snakemake(tmp_path)
    assert done.returncode == code, done.stderr[-2000:]
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_default_study_that_is_not_yaml_is_named_with_its_line_and_a_dry_run_leaves_nothing(tmp_path: Path) -> None:
    """Snakemake reads the file of `--configfile` before the Snakefile (docs/reference/errors.md); the default it reads later."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ct.yaml").write_text("sources:\n\tct: {path: scans}\n")
    done = subprocess.run(
        [warm.python(), "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "1", "-n"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 2 and "medssl: configs/ct.yaml:2: not valid YAML" in done.stderr, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and not (tmp_path / "results").exists()


def test_of_two_runs_one_is_refused_with_exit_code_6_and_sigterm_ends_the_other_and_its_job_with_75(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "s", steps=400)
    first = subprocess.Popen(
        command(folder), cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        lock = folder / "results" / "small" / ".lock"
        wait_for(lambda: lock.is_file() and lock.read_text() != "")
        second = snakemake(folder)
        assert second.returncode == 6 and "in use by process" in second.stderr
        wait_for(lambda: any((folder / "results" / "small").glob("state/locks/*.lock")))
        os.kill(first.pid, signal.SIGTERM)
        assert first.wait(60) == 75
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
        first.wait()


KILLED_AT = [
    "1_ingest/ct/volumes/.part-*/*/image.npy",
    "state/pretrain/*/step-*.json",
    "1_ingest/ct/receipt.json",
    "2_prepare/ct/arrays/*",
    "3_reduce/ct/descriptors.parquet",
    "3_reduce/ct/hash/keep.parquet",
    "4_pretrain/ct/*/encoder.safetensors",
    "7_report/ct/*",
]
"""Files of a study whose appearance is a moment: a volume that is being written, a training between two steps, a stage's end."""


def test_kill_9_at_any_moment_and_the_same_command_finishes_the_same(
    finished: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    expected = hashes(finished)
    folder = make_folder(tmp_path / "s")
    moments = sorted(KILLED_AT) if request.config.getoption("--full") else KILLED_AT[:2]
    for moment in moments:
        process = subprocess.Popen(
            command(folder), cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        wait_for(lambda moment=moment: any((folder / "results" / "small").glob(moment)), every_s=0.005)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"it had ended before {moment}"
    done = snakemake(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert hashes(folder) == expected


def wait_for(condition: object, timeout_s: float = 240.0, every_s: float = 0.1) -> None:
    """Wait for what must come; the limit only keeps a suite from hanging."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline_s
        time.sleep(every_s)
