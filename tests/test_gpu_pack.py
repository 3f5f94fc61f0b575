"""`make gpu-pack`: what is packed is enough elsewhere, and what could not be there is refused."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import Any

import pytest
import warm
from packaging.requirements import Requirement

from medssl.core.errors import StudyError
from medssl.core.job import Spec

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "workflow" / "write_gpu_pack.py"
OF_THE_MACHINE = ("torch", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "psutil")
STUDY = """\
study: small
id_key: {key}
sources:
  ct: {{path: scans, prepare: {{split: {{val_frac: 0, test_frac: 0}}}}}}
reduce: {{arms: {{all: {{}}}}, controls: false}}
pretrain:
  second: &tiny
    init_run: first
    backbone: {{resnet18: {{width: 0.125, stem: small}}}}
    size: [16]
    batch_size: 4
    max_steps: 1
    device: cpu
  first:
    <<: *tiny
    init_run: null
"""


def test_packed_jobs_run_elsewhere_in_their_order_and_their_results_are_those_of_the_study(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "scans").mkdir(parents=True)
    there.mkdir()
    for file in sorted((ROOT / "demo" / "ct" / "demo1").iterdir())[10:16]:
        shutil.copy(file, here / "scans")
    (here / "mine.yaml").write_text(STUDY.format(key=ROOT / "demo" / "id_key"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    packed = subprocess.run(
        [warm.python(), str(SCRIPT), "mine.yaml", "--no-wheels"], cwd=here, capture_output=True, text=True, env=environment
    )
    assert packed.returncode == 0, packed.stderr

    shutil.move(here / "gpu-pack.tar.xz", there)
    shutil.move(here / "scans", tmp_path / "scans")  # the archive is all there is
    subprocess.run(["tar", "xf", "gpu-pack.tar.xz"], cwd=there, check=True)
    jobs = (there / "gpu-pack" / "jobs").read_text().split("\n")
    assert ["first" in jobs[0], "second" in jobs[1]] == [True, True]
    run = ["bash", "gpu-pack/run.sh", "studies"]
    done = subprocess.run(run, cwd=there, capture_output=True, text=True, env=os.environ | {"PYTHON": warm.python()})
    assert done.returncode == 0, done.stderr

    shutil.move(tmp_path / "scans", here / "scans")
    shutil.copytree(there / "gpu-pack" / "results" / "small" / "4_pretrain", here / "results" / "small" / "4_pretrain")
    command = [warm.python(), "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "1", "-n", "pretrain_ct"]
    command += ["--configfile", "mine.yaml"]
    planned = subprocess.run(command, cwd=here, capture_output=True, text=True, env=environment)
    assert planned.returncode == 0, planned.stderr
    jobs_left = set(re.findall(r"^(\w+) +\d+$", planned.stdout + planned.stderr, re.MULTILINE))
    assert jobs_left == {"page", "pretrain_ct", "total"}


def test_the_packed_wheels_are_all_that_training_and_the_benchmark_import(tmp_path: Path) -> None:
    script = runpy.run_path(str(SCRIPT))
    for name in {distribution_name(name) for name in (*script["WHEELS"], *with_needed(OF_THE_MACHINE))}:
        link_installed(name, tmp_path)
    code = (
        "import importlib, pathlib, pkgutil, sys, tempfile\n"
        f"sys.path.append({str(ROOT / 'benchmarks')!r})\n"
        "assert importlib.util.find_spec('monai') and not importlib.util.find_spec('snakemake')\n"
        "import gpu_sections, medssl.finetune, medssl.nn, medssl.pretrain, medssl.cli\n"
        "for package in (gpu_sections, medssl.finetune, medssl.nn, medssl.pretrain):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "import pretrain, spark\n"
        "from medssl.pretrain.events import Events\n"
        "events = Events(pathlib.Path(tempfile.mkdtemp()), 0)\n"
        "events.write(1, {'loss': 1.0})\n"
        "events.close()\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_wheels_have_the_versions_of_the_lock() -> None:
    script = runpy.run_path(str(SCRIPT))
    lock = (ROOT / "requirements.lock").read_text().split()
    pins = script["pinned"]("requirements.lock", (*script["WHEELS"], *script["OF_BLOSC2"]))
    assert len(pins) == len(set(pins)) == len(script["WHEELS"]) + len(script["OF_BLOSC2"]) and set(pins) <= set(lock)
    with pytest.raises(StudyError, match=r"requirements.lock has no nothing-like-it"):
        script["pinned"]("requirements.lock", ("monai", "nothing-like-it"))


@pytest.mark.parametrize("path", ["/data/weights.safetensors", "../weights.safetensors"])
def test_a_file_that_another_machine_cannot_have_is_refused(path: str) -> None:
    inputs = {"keep": "results/s/3_reduce/ct/all/keep.parquet", "init_weights": path}
    spec = Spec(
        "pretrain", "ct/simclr-all-seed0", "s", "results/s", 0, "", {}, inputs, "results/s/4_pretrain/ct/simclr-all-seed0"
    )
    with pytest.raises(StudyError, match=r"reads init_weights at .*weights.safetensors, which another machine does not have"):
        list(runpy.run_path(str(SCRIPT))["inputs_of"](spec))


def test_what_is_too_large_is_refused_with_what_is_largest(tmp_path: Path) -> None:
    archived: Any = runpy.run_path(str(SCRIPT))["archived"]
    archived.__globals__["MOST_MB"] = 0.01
    (tmp_path / "pack" / "results").mkdir(parents=True)
    (tmp_path / "pack" / "results" / "array.npy").write_bytes(os.urandom(2_000_000))
    with pytest.raises(StudyError, match=r"has 2 MB.*results 2 MB"):
        archived(tmp_path / "pack")


def test_another_python_than_the_wheels_are_for_is_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "workflow" / "gpu_pack_run.sh", tmp_path / "run.sh")
    (tmp_path / "python-version").write_text("2.7\n")
    done = subprocess.run(
        ["bash", str(tmp_path / "run.sh")], capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable}
    )
    assert done.returncode == 2 and "PYTHON_VERSION=3." in done.stderr


def link_installed(name: str, folder: Path) -> None:
    """Make one package of this environment importable from a folder; nothing where it is not installed."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return
    for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
        if not (folder / top).is_symlink():
            (folder / top).symlink_to(Path(str(package.locate_file(top))))


def with_needed(names: tuple[str, ...]) -> set[str]:
    """Packages with those that they need, here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if distribution_name(name) in found:
            continue
        found.add(distribution_name(name))
        try:
            needed = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def distribution_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
