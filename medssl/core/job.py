"""One job of a stage: its spec, its lock, its inputs checked against their receipts, its own receipt written last."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from medssl.core.energy import read_counters
from medssl.core.errors import CorruptArtefactError, LockedError, StudyError
from medssl.core.files import canonical_json, inside, read_json, sha256_file, sha256_text, sweep, write_json
from medssl.core.layout import Layout
from medssl.core.origin import origin
from medssl.core.progress import Bar, progress

RECEIPT = "receipt.json"
COMMAND = "MEDSSL_COMMAND"
"""Environment variable: what Snakemake was started with, for the receipts of the jobs that it starts."""
LOCK_WAIT_S = 60.0


@dataclass(frozen=True)
class Spec:
    """The resolved options of one job, as the study file gave them; `inputs` and `outputs` are paths by name."""

    stage: str
    name: str
    study: str
    root: str
    seed: int
    code: str
    settings: dict[str, Any]
    inputs: dict[str, Any]
    out: str
    private: dict[str, str] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Hash of everything that may change the result (the private part says only where sources lie)."""
        return sha256_text(canonical_json(self._public()))[:16]

    @property
    def layout(self) -> Layout:
        """The paths of the study."""
        return Layout(Path(self.root))

    def to_json(self) -> str:
        """The file that is the input of the rule."""
        return json.dumps(self._public(), indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path | str) -> Spec:
        """Read a spec file; an ingest spec is completed with the real paths, which only the private folder knows."""
        spec = cls(**read_json(path))
        place = Path(spec.layout.private(spec.name.split("/")[0], "place.json"))
        return dataclasses.replace(spec, private=read_json(place)) if spec.stage == "ingest" and place.is_file() else spec

    def _public(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "private"}


class Job:
    """What a stage's `run` needs beside its spec: the output folder, progress, verified inputs, the receipt."""

    def __init__(self, spec: Spec, log: IO[str] | None, threads: int) -> None:
        self.spec = spec
        self.out = Path(spec.out)
        self.threads = threads
        self._log = log
        self._outputs: list[Path] = []
        self._inputs: dict[str, str] = {}
        self._known: dict[Path, str] = {}
        self.notes: dict[str, Any] = {}
        self._start_s = time.monotonic()
        self._energy = read_counters()

    def path(self, *parts: str) -> Path:
        """A path below the output folder."""
        return inside(self.out, *parts)

    @property
    def log_path(self) -> Path | None:
        """The log file, for processes that this job starts."""
        return Path(self._log.name).resolve() if self._log is not None else None

    def log(self, line: str) -> None:
        """A line for the log file (never anything from a header, a path or a name)."""
        if self._log is not None:
            print(line, file=self._log, flush=True)

    @contextlib.contextmanager
    def progress(self, what: str, total: int, unit: str) -> Iterator[Bar]:
        """A bar for a block of work."""
        title = f"{self.spec.stage} {self.spec.name}" + (f" {what}" if what else "")
        with progress(title, total, unit, log=self._log, terminal_lock=self.spec.layout.root / "state" / "terminal.lock") as bar:
            yield bar

    def read(self, path: Path | str) -> Path:
        """`path`, an artefact of an earlier stage, once its bytes equal what its receipt says.

        Raises:
            CorruptArtefactError: the file is not the one the receipt beside it (or above it) describes.
        """
        path = Path(path)
        entry, receipt = _receipt_entry(path)
        if entry is None:
            return path
        actual = sha256_file(path) if path.is_file() and path.stat().st_size == entry["size"] else None
        if actual is None or actual != entry["sha256"]:
            stage = read_json(receipt)["stage"]
            raise CorruptArtefactError(
                f"{path} is not the file that stage {stage!r} wrote (size or sha256 differs from {receipt}). "
                f"Delete {receipt} and run the same command again to rebuild it."
            )
        self._inputs[str(path)] = actual
        return path

    def hash_of(self, path: Path) -> str | None:
        """The hash that `read` verified this path against; None where no receipt lists it."""
        return self._inputs.get(str(path))

    def wrote(self, *paths: Path, sha256: str | None = None) -> None:
        """These files are this job's results; `sha256` where it is known already (one path at a time)."""
        self._outputs += paths
        if sha256 is not None:
            self._known.update(dict.fromkeys(paths, sha256))

    def write_receipt(self, folder: Path | None = None, name: str = RECEIPT) -> None:
        """The last file of a job: what went in, what came out, with what.

        Date, times, energy, command and origin are for people: no hash is made of them.
        """
        folder = folder or self.out
        write_json(
            folder / name,
            {
                "stage": self.spec.stage,
                "name": self.spec.name,
                "spec": self.spec.hash,
                "code": self.spec.code,
                "seed": self.spec.seed,
                "inputs": dict(sorted(self._inputs.items())),
                "outputs": {
                    str(p.resolve().relative_to(folder.resolve())): {
                        "sha256": self._known.get(p) or sha256_file(p),
                        "size": p.stat().st_size,
                    }
                    for p in sorted(set(self._outputs))
                },
                "environment": environment(),
                "origin": origin(),
                "threads": self.threads,
                "wall_s": round(time.monotonic() - self._start_s, 3),
                "energy_j": read_counters().since(self._energy),
                "date": datetime.now(UTC).date().isoformat(),
                "command": os.environ.get(COMMAND),
                **self.notes,
            },
        )


@contextlib.contextmanager
def job(
    spec: Spec, *, part: str = "", log_path: Path | str | None = None, threads: int = 1, joins: bool = False
) -> Iterator[Job]:
    """Run a block as the job of `spec`: alone on its output folder, with leftovers of a killed run swept away.

    A job that works beside others on the same folder names its `part`; then it leaves the others' temporaries alone.
    A process that `joins` belongs to a job whose first process, on this node or another, holds the folder and writes the results.
    """
    if joins:
        yield Job(spec, None, threads)
        return
    with contextlib.ExitStack() as stack:
        name = "-".join(filter(None, [spec.stage, spec.name.replace("/", "-"), part]))
        lock = spec.layout.root / "state" / "locks" / f"{name}.lock"
        stack.enter_context(hold(lock, wait_s=LOCK_WAIT_S))
        log = None
        if log_path is not None:
            Path(log_path).parent.mkdir(parents=True, exist_ok=True)
            log = stack.enter_context(open(log_path, "a", encoding="utf-8"))
        Path(spec.out).mkdir(parents=True, exist_ok=True)
        if not part:
            sweep(Path(spec.out))
        yield Job(spec, log, threads)


@contextlib.contextmanager
def hold(lock: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file; the kernel frees it when the process ends, however it ends.

    Raises:
        LockedError: somebody else holds it after `wait_s` seconds.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a+") as file:
        deadline_s = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise LockedError(
                        f"{lock} cannot be locked: {error.strerror}. This file system has no locks, so that two runs at once "
                        "would not be noticed; set `output` in the study file to one that has (Lustre: mounted with -o flock)."
                    ) from error
                if time.monotonic() >= deadline_s:
                    file.seek(0)
                    raise LockedError(
                        f"{lock.parent.parent.name} is in use by {file.read().strip() or 'another process'} ({lock}). "
                        "Wait for it to end, or set another `output` in the study file."
                    ) from None
                time.sleep(0.2)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def environment() -> dict[str, str]:
    """Versions that can change a result."""
    found = {"python": platform.python_version(), "platform": f"{sys.platform}-{platform.machine()}"}
    for package in (
        "medssl",
        "numpy",
        "torch",
        "monai",
        "pydicom",
        "nibabel",
        "scikit-learn",
        "imagehash",
        "lightning-fabric",
        "snakemake",
    ):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def paths_in(inputs: Any) -> Iterator[str]:
    """The paths of a spec's inputs, however they are nested."""
    if isinstance(inputs, str):
        yield inputs
    else:
        for part in inputs.values() if isinstance(inputs, dict) else inputs:
            yield from paths_in(part)


def drop_incomplete(root: Path) -> list[str]:
    """Remove each receipt one of whose outputs is gone or has another size, so that the DAG rebuilds that artefact."""
    dropped = []
    for receipt in sorted(root.glob("[1-7]_*/**/" + RECEIPT)):
        for name, entry in read_json(receipt)["outputs"].items():
            path = receipt.parent / name
            if not path.is_file() or path.stat().st_size != entry["size"]:
                receipt.unlink()
                dropped.append(str(receipt))
                break
    return dropped


def _receipt_entry(path: Path) -> tuple[dict[str, Any] | None, Path]:
    for folder in list(path.parents)[:4]:
        receipt = folder / RECEIPT
        if receipt.is_file():
            outputs = _outputs(receipt, receipt.stat().st_mtime_ns)
            return outputs.get(str(path.relative_to(folder))), receipt
    raise StudyError(f"{path} has no {RECEIPT} beside it: the stage that makes it has not finished. Run the same command again.")


@functools.lru_cache(maxsize=8)
def _outputs(receipt: Path, changed_ns: int) -> dict[str, Any]:
    """The outputs of a receipt, parsed once: a job may read thousands of files of one."""
    return dict(read_json(receipt)["outputs"])
