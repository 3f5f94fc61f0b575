"""Write one folder, and an archive of it, for a GPU machine without internet: code, wheels, prepared inputs of studies, `run.sh`.

What is prepared is prepared here first, by Snakemake; pre-training and fine-tuning run there (docs/howto/gpu.md).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from medssl.core.errors import MedsslError, StudyError
from medssl.core.job import Spec, named_paths
from medssl.core.layout import Layout
from medssl.core.receipts import is_artefact_file
from medssl.core.store import RECEIPT
from medssl.study.dag import Dag
from medssl.study.file import load_study

ROOT = Path(__file__).resolve().parent.parent
MOST_MB = 60.0
WHEELS = (
    "monai", "nibabel", "pydicom", "pillow", "lightning-fabric", "lightning-utilities", "packaging", "safetensors",
    "threadpoolctl", "pydantic", "pydantic-core", "typing-inspection", "typing-extensions", "annotated-types", "jaxtyping",
    "wadler-lindig", "typer", "annotated-doc", "shellingham", "rich", "markdown-it-py", "mdurl", "pygments", "tensorboard",
    "protobuf", "absl-py",
)  # fmt: skip
"""What training and the benchmark import beyond torch, numpy, pandas, pyarrow, scikit-learn, scipy and psutil."""
OF_BLOSC2 = ("blosc2", "ndindex", "msgpack", "numexpr")
"""And where arrays are compressed."""
PEERS = "requirements-gpu.lock"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
OF_IMAGES = ("volume.json", "mask.npy")
"""What fine-tuning reads of the images of stage ingest: their grids and masks, never the images."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", type=Path, default=[ROOT / "configs" / "ct.yaml"], help="study files")
    parser.add_argument("--out", type=Path, default=Path("gpu-pack"), help="the folder; beside it the archive, <folder>.tar.xz")
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--no-wheels", action="store_true", help="leave them out: nothing is downloaded")
    options = parser.parse_args()
    try:
        archive = write_pack(options.out, options.studies, None if options.no_wheels else options.python)
    except MedsslError as error:
        sys.exit(f"gpu-pack: {error}")
    print(f"{archive}  {archive.stat().st_size / 1e6:.1f} MB; there: tar xf {archive.name} && bash {options.out.name}/run.sh")


def write_pack(folder: Path, studies: list[Path], python: str | None) -> Path:
    """The archive of a folder with everything; python: whose wheels, None for none.

    Raises:
        StudyError: a study has paths that do not exist elsewhere, or it is all too large.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    jobs = []
    for file in studies:
        dag = Dag(load_study(files=[str(file)]))
        specs = [spec for _, spec in dag.specs() if spec.stage in ("pretrain", "finetune")]
        prepare(file, [path for spec in specs for path in inputs_of(spec)])
        jobs += copy_jobs(specs, folder)
    (folder / "jobs").write_text("".join(f"{line}\n" for line in jobs), encoding="utf-8")
    for name in ("medssl", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "workflow" / "gpu_pack_run.sh", folder / "run.sh")
    shutil.copy(ROOT / "LICENSE", folder)
    (folder / "python-version").write_text(f"{python or '{}.{}'.format(*sys.version_info[:2])}\n", encoding="utf-8")
    if python is not None:
        blosc2 = OF_BLOSC2 if any(folder.glob("results/**/*.b2nd")) else ()
        pins = [*pinned("requirements.lock", (*WHEELS, *blosc2)), *pinned(PEERS)]
        download(pins, folder / "wheels", python)
    return archived(folder)


def inputs_of(spec: Spec) -> Iterator[str]:
    """The files and folders that a job reads but for what runs of its study leave.

    Raises:
        StudyError: one does not lie below the folder in which the study is run.
    """
    trained = Path(spec.root) / "4_pretrain"
    for name, path in named_paths(spec.inputs):
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise StudyError(
                f"{spec.stage} {spec.name} reads {name} at {path}, which another machine does not have. Run the study in a "
                "folder that holds its output and its weights, with paths relative to it."
            )
        if not Path(path).is_relative_to(trained):
            yield path


def prepare(study: Path, inputs: list[str]) -> None:
    """Let Snakemake make what jobs read; files that the study names itself are there.

    Raises:
        StudyError: it could not.
    """
    wanted = dict.fromkeys(path if is_artefact_file(path) else str(Path(path).parent / RECEIPT) for path in inputs)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "all", "--quiet", "all"]
    if subprocess.run([*command, "--configfile", str(study), "--", *wanted], check=False).returncode:
        raise StudyError(f"{study} could not be prepared; what Snakemake says above is why.")


def copy_jobs(specs: list[Spec], folder: Path) -> list[str]:
    """Copy specs and what they read; a line for each job, `stage spec log`, after those whose results it reads."""
    for spec in specs:
        layout = Layout(Path(spec.root))
        _copy(Path(layout.spec(spec.stage, spec.name)), folder)
        for name, path in named_paths(spec.inputs):
            if path in set(inputs_of(spec)):
                _copy_input(name, Path(path), folder)
    lines, waiting = [], list(specs)
    while waiting:
        outs = {spec.out for spec in waiting}
        ready = [spec for spec in waiting if not any(str(Path(path).parent) in outs for _, path in named_paths(spec.inputs))]
        for spec in ready:
            layout = Layout(Path(spec.root))
            lines.append(
                f"{spec.stage} {layout.spec(spec.stage, spec.name)} {layout.log(spec.stage, spec.name.replace('/', '-'))}"
            )
        waiting = [spec for spec in waiting if spec not in ready]
    return lines


def _copy_input(name: str, path: Path, folder: Path) -> None:
    """An input with its receipt."""
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        for file in files:
            if name != "images" or file.name in OF_IMAGES:
                _copy(file, folder)
    else:
        _copy(path, folder)
    for above in list(path.parents)[:4]:
        if (above / RECEIPT).is_file():
            _copy(above / RECEIPT, folder)
            return


def _copy(path: Path, folder: Path) -> None:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target)


def pinned(lock: str, names: tuple[str, ...] = ()) -> list[str]:
    """The lines of a lock file, of these packages or all.

    Raises:
        StudyError: one is not in it.
    """
    pins = {
        line.split("==")[0].lower(): line for line in (ROOT / lock).read_text().split() if re.fullmatch(r"[\w.-]+==\S+", line)
    }
    if missing := [name for name in names if name not in pins]:
        raise StudyError(f"{lock} has no {', '.join(missing)}. Run make lock, or correct WHEELS of {Path(__file__).name}.")
    return [pins[name] for name in names or pins]


def download(pins: list[str], folder: Path, python: str) -> None:
    """Wheels for a Python on Linux, from the package index that pip is set to.

    Raises:
        StudyError: there is none of a package.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--python-version", python, *(word for name in PLATFORMS for word in ("--platform", name))]
    if subprocess.run([*command, *pins], check=False).returncode:
        raise StudyError(f"wheels for Python {python} could not be downloaded; what pip says above is why.")


def archived(folder: Path) -> Path:
    """The archive of a folder, beside it.

    Raises:
        StudyError: it is larger than it may be.
    """
    archive = folder.parent / f"{folder.name}.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(folder, arcname=folder.name, filter=_unowned)
    size_mb = archive.stat().st_size / 1e6
    if size_mb > MOST_MB:
        parts = {part.name: sum(f.stat().st_size for f in part.rglob("*") if f.is_file()) / 1e6 for part in folder.iterdir()}
        largest = ", ".join(f"{name} {mb:.0f} MB" for name, mb in sorted(parts.items(), key=lambda part: -part[1])[:3])
        raise StudyError(
            f"{archive} has {size_mb:.0f} MB, and {MOST_MB:.0f} are the most (before compression: {largest}). "
            "Name fewer studies, or smaller ones."
        )
    return archive


def _unowned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """An entry that does not say who packed it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
