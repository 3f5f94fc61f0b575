"""The reason why a job failed or stopped, in one small file per job, for the last lines of its study."""

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
    """The reason of one job; `trace`: the last lines of a traceback."""

    job: str
    exit_code: int
    sentence: str
    log: str | None = None
    trace: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """The file in which a job reports why it did not finish."""

    file: Path
    job: str
    log: Path | None

    @classmethod
    def of(cls, spec: Spec, log: Path | None) -> Failure:
        """The file of a job; a job without a log is identified by its name."""
        name = spec.name.replace("/", "-")
        file = spec.layout.of_log("failures", log if log is not None else Path(spec.stage, name), ".json")
        return cls(file, f"{spec.stage} {name if log is None else log.stem}", log)

    def write(self, exit_code: int, sentence: str, trace: Sequence[str] = ()) -> None:
        """Write the reason."""
        said = Said(self.job, exit_code, sentence, None if self.log is None else str(self.log), list(trace))
        write_json(self.file, asdict(said))

    def forget(self) -> None:
        """Remove the reason of an earlier try: the job has finished."""
        self.file.unlink(missing_ok=True)


def failures(layout: Layout) -> list[Said]:
    """The reasons that jobs of this run reported, the latest last."""
    files = Path(layout.state("failures", "")).rglob("*.json")
    return [Said(**read_json(file)) for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]
