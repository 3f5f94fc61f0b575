"""`medssl run`: which line of Snakemake it becomes, and that whatever a person gives it arrives there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from medssl.core.beside import beside, is_installed
from medssl.core.errors import StudyError
from medssl.study.running import snakemake_line
from medssl.study.workflow import default_study, shell_prefix, threads_of_data

ROOT = Path(__file__).resolve().parent.parent.parent
OWN = f"--snakefile {ROOT}/Snakefile"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    for name in ("mine.yaml", "more.yaml", "a=b.yaml"):
        Path(name).write_text("sources: {ct: {path: scans}}\n")
    return tmp_path


@pytest.mark.parametrize(("given", "line"), [
    ("", f"{OWN} --cores all"),
    ("pretrain_ct --config mine.yaml", f"--configfile mine.yaml {OWN} --cores all pretrain_ct"),
    ("--config=mine.yaml pretrain_ct -n", f"--configfile mine.yaml {OWN} --cores all pretrain_ct -n"),
    ("--config mine.yaml --config more.yaml report", f"--configfile mine.yaml more.yaml {OWN} --cores all report"),
    ("report --config a=b.yaml", f"--configfile a=b.yaml {OWN} --cores all report"),
    ("report --config seed=1 output=x -p", f"{OWN} --cores all report --config seed=1 output=x -p"),
    ("report --configfile mine.yaml", f"{OWN} --cores all report --configfile mine.yaml"),
    ("report --cores 2", f"{OWN} report --cores 2"),
    ("report -c2", f"{OWN} report -c2"),
    ("report -j 4", f"{OWN} report -j 4"),
    ("report --executor=slurm", f"{OWN} report --executor=slurm"),
    ("report --profile slurm", f"{OWN} report --profile {ROOT}/configs/profiles/slurm"),
    ("report --profile=mine", f"{OWN} report --profile mine"),
    ("report --config", f"{OWN} --cores all report --config"),
])  # fmt: skip
def test_all_but_the_study_file_is_passed_on_in_its_order(given: str, line: str) -> None:
    assert shlex.join(snakemake_line(shlex.split(given))) == line


def test_a_profile_of_ones_own_goes_before_one_of_the_same_name(folder: Path) -> None:
    (folder / "slurm").mkdir()
    assert snakemake_line(["--profile", "slurm"])[-2:] == ["--profile", "slurm"]


def test_a_study_file_that_cannot_be_read_is_named_before_snakemake_starts() -> None:
    Path("tab.yaml").write_text("sources:\n\tct: 1\n")
    with pytest.raises(StudyError, match=r"tab.yaml:2: not valid YAML.* not with tabs"):
        snakemake_line(["--config", "tab.yaml"])
    with pytest.raises(StudyError, match=r"no study file mina.yaml. Did you mean 'mine.yaml'"):
        snakemake_line(["--config", "mina.yaml"])


def test_a_run_without_a_study_file_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        default_study()
    assert ended.value.code == 2 and "`medssl init FOLDER` writes a study file" in capsys.readouterr().err


def test_ctrl_c_while_a_study_is_checked_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medssl.study.workflow.DEFAULT_STUDY", "mine.yaml")
    monkeypatch.setattr("medssl.study.workflow.read_yaml", interrupted)
    with pytest.raises(SystemExit) as ended:
        default_study()
    assert ended.value.code == 75 and "No job has started." in capsys.readouterr().err


def test_conda_environments_of_rules_are_for_clones(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In such an environment there is no medssl but that of the clone, which an installed package has not."""
    conda = SimpleNamespace(deployment_method=[SimpleNamespace(name="CONDA")])
    workflow = SimpleNamespace(deployment_settings=conda, basedir="here")
    assert "env PYTHONPATH=here python -m medssl" in shell_prefix(workflow)
    monkeypatch.setattr("medssl.study.workflow.is_installed", lambda: True)
    with pytest.raises(SystemExit) as ended:
        shell_prefix(workflow)
    assert ended.value.code == 2 and "works from a clone" in capsys.readouterr().err


def test_targets_arrive_and_exit_codes_come_back(folder: Path) -> None:
    """The line is printed first; a target that does not exist is the sentence of the study that was named."""
    (folder / "scans").mkdir()
    (folder / "scans" / "1.dcm").write_bytes(b"x")
    command = [sys.executable, "-m", "medssl", "run", "pretrain_lung", "--config", "mine.yaml", "-n"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].endswith(f"--configfile mine.yaml {OWN} --cores all pretrain_lung -n")
    assert "there is no target 'pretrain_lung'" in done.stderr and "all, report, pretrain_ct" in done.stderr


def test_a_wheel_holds_what_snakemake_reads_and_the_package_finds_it_there(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    package = folder / "site" / "medssl"
    assert is_installed(package) and beside(package) == package / "snakemake" and not is_installed()
    read = [ROOT / "Snakefile", ROOT / "environment.yml", ROOT / "requirements.lock", *ROOT.glob("workflow/*.smk")]
    read += [path for name in ("profiles", "configs", "medssl") for path in (ROOT / name).rglob("*") if path.is_file()]
    for path in (path for path in read if "__pycache__" not in path.parts):
        name = path.relative_to(ROOT)
        at = folder / "site" / name if name.parts[0] == "medssl" else beside(package) / name
        assert at.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("cores", "jobs", "threads"), [(2, 1, 2), (2, 2, 1), (3, 2, 2), (1, 5, 1), (16, 1, 8), (40, 2, 8), (None, 10, 8)]
)
def test_jobs_that_read_images_share_the_cores(cores: int | None, jobs: int, threads: int) -> None:
    """Up to eight each; on a cluster, which has no number of cores, eight."""
    assert threads_of_data(SimpleNamespace(resource_settings=SimpleNamespace(cores=cores)), jobs) == threads


TWO_SOURCES = """
sources:
  a: {path: scans}
  b: {path: masked}
cohorts: {both: [a, b]}
reduce: {arms: {all: {}, close: {reducer: embedding, encoder: simclr-all-seed0}}}
pretrain: {simclr: {cohort: both, arms: [all]}, again: {cohort: both, arms: [close]}}
finetune: {spots: {source: b, task: segmentation}}
"""


def test_jobs_before_training_go_first_and_have_the_threads_that_they_use(folder: Path) -> None:
    """With one cohort of two sources on four cores: what reads a source has two of them, what reads the cohort has four."""
    for name in ("scans/1.dcm", "masked/1_ct.nii.gz", "masked/1_seg.nii.gz"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    Path("mine.yaml").write_text(TWO_SOURCES, encoding="utf-8")
    command = f"{sys.executable} -m medssl run report --config mine.yaml --cores 4 -n --quiet progress"
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    blocks = re.findall(r"^rule (\w+):\n((?: {4}.*\n)+)", done.stdout + done.stderr, re.MULTILINE)
    first = {name for name, block in blocks if "priority: 1" in block}
    threads = {name: int(found[1]) for name, block in blocks if (found := re.search(r"threads: (\d+)", block))}
    names = {name for name, _ in blocks}
    assert first == {name for name in names if name.startswith(("ingest", "prepare", "reduce"))} and names > first
    for name in ("ingest_scan", "ingest_convert", "prepare"):
        assert threads[name] == 2, name
    assert threads["reduce_describe"] == 4
    arms = {re.search(r"arm=(\w+)", block)[1]: "threads: 4" in block for name, block in blocks if name == "reduce"}  # type: ignore[index]
    assert [arm for arm, embeds in arms.items() if embeds] == ["close"] and "all" in arms
