"""One job of a stage: its spec, its lock, its inputs checked against their receipts, its own receipt written last."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from medssl.core.energy import read_counters
from medssl.core.errors import StudyError
from medssl.core.files import canonical_json, inside, read_json, sha256_file, sha256_text, sweep, write_json
from medssl.core.layout import Layout
from medssl.core.lock import hold
from medssl.core.origin import installed_version, origin
from medssl.core.progress import Bar, progress
from medssl.core.receipts import is_artefact_file, receipt_of_folder, stated_hash, verified_hash
from medssl.core.shown import say
from medssl.core.store import RECEIPT, Store, link

if TYPE_CHECKING:
    from medssl.core.options import Options  # the command line starts without pydantic

COMMAND = "MEDSSL_COMMAND"
"""Environment variable: what Snakemake was started with, for the receipts of the jobs that it starts."""
LOCK_WAIT_S = 60.0
NOT_KEPT = ("ingest", "report")
"""Stages whose jobs run whenever Snakemake asks: the bytes that ingest reads are unknown, and report reads other receipts."""
LIVE = "events"
"""A folder of a job that a user may have open while it runs: it is not a result and is left alone."""

A_SPEC = "Name a spec file, results/<study>/specs/<stage>/<name>.json; `medssl specs STUDY_FILE` writes them."

Chosen = TypeVar("Chosen", bound="Options")


@dataclass(frozen=True)
class Machine:
    """What a job asks of the machine: nodes, processes per node (one per device), and how long before a deadline it stops.

    `gpus`: whether each process takes a GPU if there are any.
    """

    nodes: int = 1
    processes: int = 1
    gpus: bool = False
    stop_before_deadline_s: float = 120.0


@dataclass(frozen=True)
class Spec:
    """The resolved options of one job, completed from the study file; `inputs` are paths by name.

    `given` holds hashes of files that the study file names: for them content matters, not the time of change.
    `watch` holds options for watching the job; no result depends on them.
    """

    stage: str
    name: str
    study: str
    root: str
    seed: int
    code: str
    options: dict[str, Any]
    inputs: dict[str, Any]
    out: str
    given: dict[str, str] = field(default_factory=dict)
    machine: Machine = Machine()
    watch: dict[str, Any] = field(default_factory=dict)
    private: dict[str, str] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Hash of everything that can change the result (the private part only says where sources lie)."""
        return sha256_text(canonical_json({name: value for name, value in self._public().items() if name != "watch"}))[:16]

    @property
    def layout(self) -> Layout:
        """The paths of the study."""
        return Layout(Path(self.root))

    @property
    def store(self) -> Store:
        """The store that keeps results of this study for reuse."""
        return Store(Path(self.layout.state("store", "")))

    def to_json(self) -> str:
        """The text of the spec file, which is the input of the rule."""
        return json.dumps(self._public(), indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path | str) -> Spec:
        """Read a spec file; an ingest spec is completed with the real paths, which only the private folder knows.

        Raises:
            StudyError: the file is missing or not a spec.
        """
        try:
            spec = cls.of(read_json(path))
        except OSError as error:
            raise StudyError(f"{path} cannot be read ({error.strerror}). {A_SPEC}") from None
        except (ValueError, KeyError, TypeError):
            raise StudyError(f"{path} is not a spec of this version of medssl. {A_SPEC}") from None
        place = Path(spec.layout.private(spec.name.split("/")[0], "place.json"))
        return dataclasses.replace(spec, private=read_json(place)) if spec.stage == "ingest" and place.is_file() else spec

    @classmethod
    def of(cls, values: dict[str, Any]) -> Spec:
        """A spec from the values of its file."""
        return cls(**values | {"machine": Machine(**values["machine"])})

    def _public(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "private"} | {
            "machine": dataclasses.asdict(self.machine)
        }


class Job:
    """What a stage's `run` needs besides its spec: the output folder, progress, verified inputs, the receipt."""

    def __init__(self, spec: Spec, log: IO[str] | None, threads: int, *, joins: bool = False) -> None:
        self.spec = spec
        self.joins = joins
        self.out = Path(spec.out)
        self.threads = threads
        self._log = log
        self._outputs: list[Path] = []
        self._inputs: dict[str, str] = {}
        self._known: dict[Path, str] = {}
        self.notes: dict[str, Any] = {}
        self._start_s = time.monotonic()
        self._energy = read_counters()

    def options(self, kind: type[Chosen]) -> Chosen:
        """The job's options, validated as they were when the study file was read.

        Raises:
            StudyError: the spec is of another step, or was edited.
        """
        from pydantic import ValidationError

        from medssl.core.written import explained

        try:
            return kind.model_validate(self.spec.options)
        except ValidationError as error:
            first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
            key = ".".join(map(str, first["loc"]))
            wrong = "is not an option of this step" if first["type"] == "extra_forbidden" else explained(first)
            raise StudyError(
                f"the spec of {self.spec.stage} {self.spec.name}: {key!r}: {wrong}. The spec is of another step, or was edited: "
                "`medssl specs STUDY_FILE` writes it again."
            ) from None

    def path(self, *parts: str) -> Path:
        """A path below the output folder."""
        return inside(self.out, *parts)

    @property
    def log_path(self) -> Path | None:
        """The log file, for processes that this job starts."""
        return Path(self._log.name).resolve() if self._log is not None else None

    @property
    def shown(self) -> Path | None:
        """The file from which the screen of the study reads the progress of this job."""
        return self.spec.layout.of_log("progress", self._log.name, ".json") if self._log is not None else None

    def log(self, line: str) -> None:
        """Write a line to the log file (never anything from a header, a path or a name)."""
        if self._log is not None:
            print(line, file=self._log, flush=True)

    def remark(self, text: str) -> None:
        """Warn on the screen and in the log; the job continues."""
        self.log(f"note: {text}")
        say(f"{self.spec.stage} {self.spec.name}: {text}")

    @contextlib.contextmanager
    def progress(self, what: str, total: int, unit: str) -> Iterator[Bar]:
        """A progress bar for a block of work."""
        title = f"{self.spec.stage} {self.spec.name}" + (f" {what}" if what else "")
        lock = Path(self.spec.layout.state("terminal.lock", ""))
        with progress(title, total, unit, log=self._log, terminal_lock=lock, shown=self.shown) as bar:
            yield bar

    def read(self, path: Path | str) -> Path:
        """`path`, an artefact of an earlier stage, once its bytes match its receipt.

        Raises:
            CorruptArtefactError: the file does not match the receipt beside it (or above it).
        """
        path = Path(path)
        actual = verified_hash(path)
        if actual is not None:
            self._inputs[str(path)] = actual
        return path

    def hash_of(self, path: Path) -> str | None:
        """The hash that `read` verified this path against; None where no receipt lists it."""
        return self._inputs.get(str(path))

    def wrote(self, *paths: Path, sha256: str | None = None) -> None:
        """Register these files as results of this job; `sha256` if it is already known (one path at a time)."""
        self._outputs += paths
        if sha256 is not None:
            self._known.update(dict.fromkeys(paths, sha256))

    def restore(self) -> bool:
        """Restore the results of an equal job that ran before, if the store has them; True if they and their receipt are in
        place.

        Jobs are equal if their options, code and the bytes of all inputs are.
        """
        kept = None if self.key is None else self.spec.store.find(self.key)
        if self.joins or kept is None:  # the first process of the job puts them in place
            return kept is not None and not kept.changed
        if kept.changed:
            what = f"the result kept of an equal job is damaged ({kept.changed[0]} is not as it was made)"
            self.remark(f"{what}, so the job runs again; write to copies of results")
            return False
        kept.restore(self.out)
        _remove_others(self.out, {str(name) for name in kept.receipt["outputs"]})
        restored = {"date": datetime.now(UTC).date().isoformat(), "wall_s": round(time.monotonic() - self._start_s, 3)}
        made = {name: value for name, value in kept.receipt.items() if not name.startswith("restored")}  # by that job
        write_json(self.out / RECEIPT, made | {"spec": self.spec.hash, "restored": restored})
        self.log(f"restored: an equal job of {kept.receipt.get('date')} left these results, and nothing was computed again")
        return True

    @functools.cached_property
    def key(self) -> str | None:
        """Hash of all that the results depend on: options, code, and the bytes of the inputs. None if that is unknown."""
        spec = self.spec
        if spec.stage in NOT_KEPT or not spec.code:
            return None
        inputs = {}
        for name, path in named_paths(spec.inputs):
            digest = spec.given.get(name) or stated_hash(Path(path))
            if digest is None:
                return None
            inputs[name] = digest
        content = [spec.stage, spec.name, spec.study, spec.seed, spec.code, spec.options, spec.given, inputs]
        return sha256_text(canonical_json(content))[:32]

    def write_receipt(self, folder: Path | None = None, name: str = RECEIPT) -> None:
        """Write the last file of a job: its inputs, its outputs, and the environment.

        Date, times, energy, command and origin are information for people and are not hashed.
        """
        folder = folder or self.out
        receipt = {
            "stage": self.spec.stage,
            "name": self.spec.name,
            "spec": self.spec.hash,
            "code": self.spec.code,
            "seed": self.spec.seed,
            "inputs": {_as_seen_from_here(path): sha256 for path, sha256 in sorted(self._inputs.items())},
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
        }
        write_json(folder / name, receipt)
        if folder == self.out and name == RECEIPT and self.key is not None:
            self.spec.store.keep(self.key, folder, receipt)


@contextlib.contextmanager
def job(
    spec: Spec, *, part: str = "", log_path: Path | str | None = None, threads: int = 1, joins: bool = False
) -> Iterator[Job]:
    """Run a block as the job of `spec`: alone on its output folder, after removing what a killed run left.

    A job that shares the folder with others names its `part`, and then leaves the others' temporaries alone.
    A process that `joins` belongs to a job whose first process, on this node or another, holds the folder and writes the results.
    """
    if joins:
        yield Job(spec, None, threads, joins=True)
        return
    with contextlib.ExitStack() as stack:
        name = "-".join(filter(None, [spec.stage, spec.name.replace("/", "-"), part]))
        lock = spec.layout.root / "state" / "locks" / f"{name}.lock"
        stack.enter_context(hold(lock, wait_s=LOCK_WAIT_S))
        log = None if log_path is None else stack.enter_context(_log_of_all_tries(spec, Path(log_path)))
        Path(spec.out).mkdir(parents=True, exist_ok=True)
        if not part:
            sweep(Path(spec.out))
        yield Job(spec, log, threads)


@contextlib.contextmanager
def _log_of_all_tries(spec: Spec, path: Path) -> Iterator[IO[str]]:
    """The log of a job, with the lines of earlier tries until one succeeds. Snakemake removes a log before each try.

    A second name below the study's `state/` keeps it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    second = spec.layout.of_log("logs", path, ".log")
    if second.is_file() and not path.exists():
        link(second, path)
    with open(path, "a", encoding="utf-8") as log:
        if path.stat().st_size:
            print("--- a new try begins", file=log, flush=True)
        if not second.is_file() or not second.samefile(path):
            link(path, second)
        yield log
    second.unlink(missing_ok=True)


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
        if (number := installed_version(package)) is not None:
            found[package] = number
    return found


def named_paths(inputs: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(name, path) of a spec's inputs, however they are nested: `samples.0`, `encoders.simclr-all-seed0`."""
    if isinstance(inputs, str):
        yield name, inputs
    else:
        for key, part in inputs.items() if isinstance(inputs, dict) else enumerate(inputs):
            yield from named_paths(part, f"{name}.{key}" if name else str(key))


def paths_in(spec: Spec) -> Iterator[str]:
    """The files that a job reads; a folder is represented by the receipt that lists its files."""
    for name, path in named_paths(spec.inputs):
        yield path if name in spec.given or is_artefact_file(path) else str(receipt_of_folder(path))


def _as_seen_from_here(path: str) -> str:
    """A path below the working folder, made relative to it: a result does not depend on the working folder."""
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove files of an earlier run below a job's folder that are not among its results; folders of other jobs stay."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in names:
            path.unlink()
        elif path.is_dir() and path.name != LIVE and not any(path.rglob(RECEIPT)):
            for file in [file for file in path.rglob("*") if file.is_file() and str(file.relative_to(folder)) not in names]:
                file.unlink()
