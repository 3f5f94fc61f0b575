"""Weights & Biases and MLflow as optional loggers: the numbers of the curve, offline, without a path or a machine's name.

Neither package is a dependency. Each is imported only if a run asks for it. It gets three things: the name of the run, the
options of the method, and the rows of the curve.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from medssl.pretrain.options import LoggerName, RunOptions

WITHHELD = {"init_weights": True, "init_run": True, "licences": True}
"""Options that may hold a path or free text."""


@dataclass(frozen=True)
class Named:
    """All that a logger gets beside the numbers of a run; `id` stays the same when the run is resumed."""

    study: str
    run: str
    id: str
    options: dict[str, Any]

    @classmethod
    def of(cls, study: str, run: str, spec_hash: str, options: RunOptions) -> Named:
        """A run without options that may name a machine or a person."""
        return cls(study, run, spec_hash, options.model_dump(mode="json", exclude=WITHHELD))


@dataclass(frozen=True)
class Asked:
    """The loggers of a run, by their names in the study file, and the folder for their files."""

    names: tuple[LoggerName, ...]
    folder: Path
    named: Named


@runtime_checkable
class Logger(Protocol):
    """A receiver of the rows of the curve."""

    def write(self, step: int, row: dict[str, Any]) -> None:
        """Log the numbers of a row at a step."""

    def close(self) -> None:
        """Finish."""


class WeightsAndBiases:
    """Offline runs below a folder, for `wandb sync`, unless WANDB_MODE is set."""

    def __init__(self, folder: Path, named: Named) -> None:
        wandb = import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        hidden = dict.fromkeys(("host", "username", "email", "program_relpath"), "")
        silent = dict.fromkeys(("disable_git", "disable_code", "disable_job_creation", "silent"), True)
        machine = dict.fromkeys(("x_disable_stats", "x_disable_meta", "x_disable_machine_info"), True)
        settings = wandb.Settings(
            mode=os.environ.get("WANDB_MODE", "offline"),
            root_dir=str(folder),
            program="medssl",
            console="off",
            save_code=False,
            x_save_requirements=False,
            **hidden,
            **silent,
            **machine,
        )
        self._run = wandb.init(
            project="medssl",
            group=named.study,
            name=named.run,
            id=named.id,
            resume="allow",
            config=named.options,
            settings=settings,
        )

    def write(self, step: int, row: dict[str, Any]) -> None:
        """Log the numbers of a row."""
        self._run.log(_numbers(row), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MLflow:
    """A run in a file store below a folder, for `mlflow ui`, unless MLFLOW_TRACKING_URI is set."""

    def __init__(self, folder: Path, named: Named) -> None:
        tracking = import_module("mlflow.tracking")
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = tracking.MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", folder.resolve().as_uri()))
        known = self._client.get_experiment_by_name(named.study)
        # with this scheme MLflow stores no path of this machine; no artefact is written
        place = "mlflow-artifacts:/medssl"
        experiment = known.experiment_id if known else self._client.create_experiment(named.study, artifact_location=place)
        before = self._client.search_runs([experiment], f"tags.medssl = '{named.id}'")
        run = before[0] if before else self._client.create_run(experiment, run_name=named.run, tags={"medssl": named.id})
        self._id = run.info.run_id
        if not before:
            for name, value in named.options.items():
                self._client.log_param(self._id, name, value)

    def write(self, step: int, row: dict[str, Any]) -> None:
        """Log the numbers of a row."""
        for name, value in _numbers(row).items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._client.set_terminated(self._id)


KINDS: dict[LoggerName, type[WeightsAndBiases] | type[MLflow]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}


@contextlib.contextmanager
def opened(asked: Asked | None, log: Callable[[str], None]) -> Iterator[list[Logger]]:
    """The loggers that a run asks for, each with its own folder; closed at the end of the block.

    A logger that cannot be opened (a full disk, a server that does not answer) is dropped, and the run continues.
    """
    found: list[Logger] = []
    try:
        for name in () if asked is None else asked.names:
            try:
                found.append(KINDS[name](asked.folder / name, asked.named))  # type: ignore[union-attr]
            except Exception as error:  # any error of a foreign package
                log(f"{name} could not be opened and is dropped: {type(error).__name__}: {error}")
        yield found
    finally:
        for logger in found:
            with contextlib.suppress(Exception):  # a logger must not change the outcome of a run
                logger.close()


def write_all(loggers: list[Logger], step: int, row: dict[str, Any], log: Callable[[str], None]) -> None:
    """Write a row to each logger; a logger that fails is dropped, and the run continues."""
    for logger in list(loggers):
        try:
            logger.write(step, row)
        except Exception as error:  # any error of a foreign package
            loggers.remove(logger)
            log(f"{type(logger).__name__} failed at step {step} and is dropped: {type(error).__name__}: {error}")


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if value is not None}
