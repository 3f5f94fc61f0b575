"""What a job that failed or was stopped leaves for the last lines of its study: one small file each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.core.files import read_json, write_json
from medssl.core.layout import Layout

if TYPE_CHECKING:
    from medssl.core.job import Spec


@dataclass(frozen=True)
class Said:
    """One sentence of a job that did not finish; `trace`: the last lines of a traceback."""

    job: str
    exit_code: int
    sentence: str
    log: str | None = None
    trace: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """Where a job says why it did not finish."""

    file: Path
    job: str
    log: Path | None

    @classmethod
    def of(cls, spec: Spec, log: Path | None) -> Failure:
        """The place of a job; one that writes no log has its own by its name."""
        name = spec.name.replace("/", "-")
        file = spec.layout.of_log("failures", log if log is not None else Path(spec.stage, name), ".json")
        return cls(file, f"{spec.stage} {name if log is None else log.stem}", log)

    def write(self, exit_code: int, sentence: str, trace: Sequence[str] = ()) -> None:
        """Say it."""
        said = Said(self.job, exit_code, sentence, None if self.log is None else str(self.log), list(trace))
        write_json(self.file, asdict(said))

    def forget(self) -> None:
        """The job has finished after all."""
        self.file.unlink(missing_ok=True)


def failures(layout: Layout) -> list[Said]:
    """What jobs of this run said, the last one last."""
    files = Path(layout.state("failures", "")).rglob("*.json")
    return [Said(**read_json(file)) for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]
