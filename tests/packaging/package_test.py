"""`make package-test`: what a person without a clone gets, in clean environments and a folder of their own, with its times.

1. Wheel and sdist are built; the wheel that is built from the sdist holds the same files.
2. The wheel alone, with the packages of the lock, in a new environment: `medssl --version`, `init` on some images,
   `run pretrain_ct`, Snakemake with the wheel's Snakefile, `medssl.load` and `medssl.Study` in Python; a run
   without a study file.
3. The same wheel in a conda environment of environment.yml, and the image of a recipe of containers/, where these programs are.

Ends with RESULT {json}; what was not tried says why.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SHORT = "pretrain={simclr: {backbone: {resnet18: {width: 0.25}}, max_steps: 4, batch_size: 4, size: [32]}}"
"""What makes a pre-training of the proposed study one of seconds."""
READ = """\
import medssl
study = medssl.Study("results/scans")
(folder,) = study.runs["folder"]
encoder = medssl.load(folder)
features = encoder.embed("scans")
assert features.shape == (12, encoder.num_features) and features.notna().all(axis=None), features
assert len(study.curves) and study.series["volume_id"].nunique() == 1, (study.curves, study.series)
print(len(encoder.state_dict()), "tensors,", features.shape[1], "features of", len(features), "slices")
"""
PASS_S = 3600  # only a guard against hanging


def main() -> int:
    """Try everything; the exit code."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="medssl-package-") as folder:
        place = Path(folder)
        try:
            wheel = built(place, result)
            tried_alone(place, wheel, result)
            result["conda"] = tried_with_conda(place, wheel)
            result["container"] = tried_in_container()
        except subprocess.CalledProcessError as error:
            print(f"{error.stdout or ''}\n{error.stderr or ''}", file=sys.stderr)
            print(f"package-test: exit code {error.returncode} of {' '.join(map(str, error.cmd))[:300]}", file=sys.stderr)
            return 1
    print(f"RESULT {json.dumps(result)}")
    return 0


def built(place: Path, result: dict[str, Any]) -> Path:
    """The wheel; it and the sdist are compared."""
    started_s = time.perf_counter()
    called([sys.executable, "-m", "hatchling", "build", "-d", place / "dist"], ROOT)
    wheel, sdist = next((place / "dist").glob("*.whl")), next((place / "dist").glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "unpacked", filter="data")
    called(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place / "again"], next((place / "unpacked").iterdir())
    )
    again = next((place / "again").glob("*.whl"))
    if contents(wheel) != contents(again):
        raise SystemExit("package-test: the wheel built from the sdist differs from that of the clone.")
    said(result, "build", started_s)
    result |= {"wheel_mb": round(wheel.stat().st_size / 1e6, 2), "sdist_mb": round(sdist.stat().st_size / 1e6, 2)}
    return wheel


def contents(wheel: Path) -> dict[str, str]:
    """The hash of every file, by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def tried_alone(place: Path, wheel: Path, result: dict[str, Any]) -> None:
    """The wheel in an environment of its own, and in a folder in which there is nothing but images."""
    started_s = time.perf_counter()
    python = place / "environment" / "bin" / "python"
    uv = str(Path(sys.executable).with_name("uv"))
    called([uv, "venv", "--quiet", "--python", sys.executable, place / "environment"], place)
    called([uv, "pip", "install", "--quiet", "--python", python, "-r", ROOT / "requirements.lock"], place)
    called([uv, "pip", "install", "--quiet", "--python", python, "--no-deps", wheel], place)
    said(result, "install", started_s)
    folder, bin_folder = place / "folder", python.parent
    (folder / "scans").mkdir(parents=True)
    for file in sorted((ROOT / "demo" / "ct" / "demo1").iterdir())[10:22]:
        shutil.copy(file, folder / "scans")
    result["version"] = timed(result, "version", [bin_folder / "medssl", "--version"], folder, bin_folder).strip()
    timed(result, "init", [bin_folder / "medssl", "init", "scans"], folder, bin_folder)
    run = [bin_folder / "medssl", "run", "pretrain_ct", "--config", "scans.yaml", "--config", SHORT]
    timed(result, "run", run, folder, bin_folder)
    snakefile = next((place / "environment").glob("lib/python*/site-packages/medssl/snakemake/Snakefile"))
    again = [bin_folder / "snakemake", "-s", snakefile, "-n", "pretrain_ct", "--configfile", "scans.yaml", "--config", SHORT]
    if "Nothing to be done" not in timed(result, "run again, dry", again, folder, bin_folder):
        raise SystemExit("package-test: a study that was run by `medssl run` is not done for `snakemake -s`.")
    result["encoder"] = timed(result, "load", [python, "-c", READ], folder, bin_folder).strip().splitlines()[1]
    (place / "empty").mkdir()
    none = subprocess.run(
        [bin_folder / "medssl", "run"], cwd=place / "empty", env=clean(bin_folder), capture_output=True, text=True, check=False
    )
    if none.returncode != 2 or "medssl init FOLDER" not in none.stderr or "Traceback" in none.stderr:
        raise SystemExit(f"package-test: a run without a study file ends with {none.returncode}:\n{none.stderr}")


def tried_with_conda(place: Path, wheel: Path) -> str:
    """The environment of environment.yml with the wheel in it; or why that was not tried."""
    conda = next((found for found in map(shutil.which, ("conda", "mamba", "micromamba")) if found), None)
    if conda is None:
        return noted("not tried: no conda here")
    prefix = place / "conda"
    called([conda, "env", "create", "--yes", "--quiet", "-p", prefix, "-f", ROOT / "environment.yml"], place)
    called([prefix / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", wheel], place)
    return noted(called([prefix / "bin" / "medssl", "--version"], place, prefix / "bin").strip())


def tried_in_container() -> str:
    """The image of a recipe; or why that was not tried."""
    for program in ("docker", "podman"):
        if shutil.which(program) and not subprocess.run([program, "info"], capture_output=True, check=False).returncode:
            called([program, "build", "--quiet", "-t", "medssl-package-test", "-f", "containers/Containerfile", "."], ROOT)
            return noted(
                called([program, "run", "--rm", "--entrypoint", "medssl", "medssl-package-test", "--version"], ROOT).strip()
            )
    if shutil.which("apptainer"):
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder) / "medssl.sif"
            called(["apptainer", "build", image, "containers/medssl.def"], ROOT)
            return noted(called(["apptainer", "exec", image, "medssl", "--version"], ROOT).strip())
    there = [program for program in ("docker", "podman") if shutil.which(program)]
    return noted(f"not tried: {f'{there[0]} has no daemon' if there else 'no docker, podman or apptainer'} here")


def clean(bin_folder: Path | None = None) -> dict[str, str]:
    """This environment without what would lead Python to the clone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "MEDSSL"))}
    return kept | ({"PATH": f"{bin_folder}:/usr/bin:/bin"} if bin_folder else {})


def called(command: list[Any], folder: Path, bin_folder: Path | None = None) -> str:
    """What a program prints to its standard output and errors; an error where it fails."""
    words = list(map(str, command))
    done = subprocess.run(words, cwd=folder, env=clean(bin_folder), capture_output=True, text=True, check=True, timeout=PASS_S)
    return done.stdout + done.stderr


def timed(result: dict[str, Any], what: str, command: list[Any], folder: Path, bin_folder: Path) -> str:
    """The same, with its time."""
    started_s = time.perf_counter()
    printed = called(command, folder, bin_folder)
    said(result, what, started_s)
    return printed


def said(result: dict[str, Any], what: str, started_s: float) -> None:
    """Print and keep the time of a step."""
    seconds = time.perf_counter() - started_s
    result[f"{what.replace(', ', '_').replace(' ', '_')}_s"] = round(seconds, 1)
    print(f"{what:<16} {seconds:8.1f} s", flush=True)


def noted(text: str) -> str:
    """Print what came of a step that needs a program of others."""
    print(text, flush=True)
    return text


if __name__ == "__main__":
    sys.exit(main())
