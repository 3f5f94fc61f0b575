"""What a person names wrongly on the command line is one sentence and the exit code 2, and nothing is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from medssl.cli import app
from medssl.core.errors import CorruptArtefactError, MedsslError, PreemptedError, StudyError
from medssl.core.failure import failures
from medssl.core.job import Spec

STAGES = ("ingest", "prepare", "reduce", "pretrain", "finetune", "evaluate", "report")
STUDY_FILE = ("clean", "specs", "plan")
NOT_WHAT_IS_ASKED_FOR = (
    "folder",
    "absent",
    "folder/absent",
    "bytes",
    "empty",
    "list.json",
    "object.json",
    "cut.json",
    "text.yaml",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("bytes").write_bytes(b"\xff\xfe\x00")
    for name, text in (
        ("empty", ""),
        ("list.json", "[1]"),
        ("object.json", "{}"),
        ("cut.json", '{"stage": '),
        ("text.yaml", "a: 1"),
    ):
        Path(name).write_text(text)
    return tmp_path


def refused(*words: str, by: type[MedsslError] = StudyError) -> str:
    """The sentence of a command that ends with an error which was foreseen, and leaves the folder as it was."""
    before = sorted(Path().rglob("*"))
    error = CliRunner().invoke(app, list(words)).exception
    assert isinstance(error, by), (words, error)
    assert sorted(Path().rglob("*")) == before
    return str(error)


@pytest.mark.parametrize("command", [*STAGES, *STUDY_FILE])
@pytest.mark.parametrize("named", NOT_WHAT_IS_ASKED_FOR)
def test_a_file_that_is_neither_spec_nor_study_is_refused_and_named(command: str, named: str) -> None:
    assert named in refused(command, named) or named == "object.json", "an object without keys is a study without sources"


def test_a_spec_of_another_stage_or_version_is_refused(folder: Path) -> None:
    from medssl.core.job import Spec

    spec = Spec("prepare", "ct", "s", "results/s", 0, "c", {}, {}, "results/s/2_prepare/ct")
    Path("spec.json").write_text(spec.to_json())
    assert "`medssl prepare spec.json`" in refused("finetune", "spec.json")
    Path("spec.json").write_text(spec.to_json().replace('"seed"', '"seeds"'))
    assert "not a spec of this version" in refused("prepare", "spec.json")


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_damaged_contract_is_refused(text: str) -> None:
    Path("folder/contract.json").write_text(text)
    assert "folder/contract.json" in refused("predict", "folder", "source", "-o", "out", by=CorruptArtefactError)


@pytest.mark.parametrize("named", NOT_WHAT_IS_ASKED_FOR)
def test_a_file_that_is_not_a_report_is_refused(named: str) -> None:
    assert named in refused("compare", named, named)


def test_a_folder_for_a_file_and_a_file_for_a_folder_are_refused() -> None:
    for name in ("one.json", "two.json"):
        Path(name).write_text('{"title": "a", "sections": []}')
    assert "folder is a folder" in refused("compare", "one.json", "two.json", "--out", "folder")
    assert "empty" in refused("compare", "one.json", "two.json", "--out", "empty/page.html")
    assert "folder is a folder" in refused("convert", "bytes", "--out", "folder")
    assert "empty" in refused("reduce", "folder", "--preview", "empty")


def spec_file(stage: str, name: str, options: dict[str, object]) -> str:
    spec = Spec(stage, name, "s", "results/s", 0, "c", options, {}, "out", private={"folder": "private", "path": "in"})
    Path("spec.json").write_text(spec.to_json())
    return "spec.json"


@pytest.mark.parametrize(("stage", "name", "step", "right"), [
    ("reduce", "ct/describe", "run", "describe"),
    ("reduce", "ct/leakage", "run", "leakage"),
    ("reduce", "ct/describe", "leakage", "describe"),
    ("reduce", "ct/all", "describe", "run"),
    ("ingest", "ct/labels", "scan", "labels"),
    ("ingest", "ct", "labels", "scan"),
])  # fmt: skip
def test_a_spec_of_another_step_names_the_command_for_it(stage: str, name: str, step: str, right: str) -> None:
    path = spec_file(stage, name, {})
    assert f"run `medssl {stage} {path} --step {right}`" in refused(stage, path, "--step", step)


@pytest.mark.parametrize("command", STAGES)
def test_a_spec_of_another_stage_names_the_command_for_it(command: str) -> None:
    for stage in set(STAGES) - {command}:
        path = spec_file(stage, "ct", {})
        assert f"run `medssl {stage} {path}`" in refused(command, path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_spec_with_options_of_something_else_is_a_sentence(stage: str) -> None:
    """Nothing of what pydantic says of itself reaches the screen."""
    step = ["--step", "merge"] if stage == "ingest" else []
    error = CliRunner().invoke(app, [stage, spec_file(stage, "ct/one", {"hash_sizes": [8]}), *step]).exception
    assert isinstance(error, StudyError), error
    assert "'hash_sizes': is not an option of this step" in str(error) and "pydantic" not in str(error)


@pytest.mark.parametrize(
    ("stage", "raised", "code", "sentence"),
    [
        ("prepare", KeyError("what"), 1, "an unexpected error: KeyError: 'what'"),
        ("ingest", KeyError("DOE^JANE"), 1, "an unexpected error: KeyError"),
        ("prepare", KeyboardInterrupt(), 75, "stopped by SIGINT. It starts again."),
        ("ingest", KeyboardInterrupt(), 75, "stopped by SIGINT. Its finished volumes are kept."),
        ("prepare", StudyError("a sentence."), 2, "a sentence."),
    ],
)
def test_a_job_that_ends_early_says_why_for_the_last_lines_of_its_study(
    stage: str, raised: BaseException, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(f"medssl.{stage}.run.{'scan' if stage == 'ingest' else 'run'}", fails)
    spec = Spec(stage, "ct", "s", "results/s", 0, "c", {}, {}, "results/s/out")
    Path("spec.json").write_text(spec.to_json())
    log = Path("results/s/logs") / stage / "ct.log"
    error = CliRunner().invoke(app, [stage, "spec.json", "--log", str(log)]).exception
    assert isinstance(error, PreemptedError if code == 75 else type(raised))
    (said,) = failures(spec.layout)
    assert (said.job, said.exit_code, said.sentence, said.log) == (f"{stage} ct", code, sentence, str(log))
    assert "DOE" not in log.read_text() + str(said.trace) and bool(said.trace) == (code == 1)
    assert said.sentence.split(": ")[-1] in log.read_text()


def test_the_help_has_a_whole_sentence_for_every_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    lines = CliRunner().invoke(app, ["--help"]).output.splitlines()
    verbs = [line.split()[0] for line in lines if line.startswith("  ") and line.endswith(".")]
    group: Any = typer.main.get_command(app)
    assert set(group.commands) <= set(verbs)
    assert not any("..." in line for line in lines[1:])


def test_ctrl_c_while_modules_load_leaves_no_traceback(folder: Path) -> None:
    Path("typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-m", "medssl", "--help"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
