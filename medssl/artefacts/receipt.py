"""`receipt.json`, the last file of every job, and the stage and folder of a path."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any, ClassVar

from pydantic import ConfigDict

from medssl.artefacts.document import Document, Number, meant

STAGES = {1: "ingest", 2: "prepare", 3: "reduce", 4: "pretrain", 5: "finetune", 6: "evaluate", 7: "report"}


class Output(Document):
    """One file of a job."""

    sha256: str = meant("of its bytes")
    size: int = meant("its size", "bytes")


class Origin(Document):
    """Where the code came from; null if unknown."""

    commit: str | None = meant("of the clone")
    dirty: bool | None = meant("whether its code differed from the commit")
    lock_sha256: str | None = meant("of `requirements.lock`")
    lock_differs: dict[str, str] | None = meant("installed packages that differ from the lock file")


class Receipt(Document):
    """The inputs, outputs and environment of a job. Stages add their own notes."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    FILE: ClassVar[str] = "receipt.json"
    FOLDER: ClassVar[str] = "every folder"
    MEANING: ClassVar[str] = "Written last. Stages add notes of their own (`device`, `steps`, `counts`, …)."

    stage: str = meant("of the job")
    name: str = meant("of the job")
    spec: str = meant("hash of its options")
    code: str = meant("hash of the code that it can load")
    seed: int = meant("of the study")
    inputs: dict[str, str] = meant("path → sha256 of its inputs")
    outputs: dict[str, Output] = meant("path below the folder → sha256 and size of its outputs")
    environment: dict[str, str] = meant("versions that can change a result")
    origin: Origin | None = meant("where the code came from; for people, in no hash", default=None)
    threads: int | None = meant("of the processor; for people", default=None)
    wall_s: Number | None = meant("wall time; for people", "s", default=None)
    energy_j: dict[str, Number] | None = meant("by counter; for people", "J", default=None)
    date: str | None = meant("day of the job; for people", default=None)
    command: str | None = meant("what was typed; for people", default=None)

    @property
    def notes(self) -> dict[str, Any]:
        """The notes that the stage added."""
        return dict(self.model_extra or {})


def stage_and_name(path: PurePath) -> tuple[str, str]:
    """The stage and the folder name of an artefact: `…/3_reduce/ct/hash/keep.parquet` is (`reduce`, `ct/hash`)."""
    for place, part in enumerate(path.parts[:-1]):
        match = re.fullmatch(r"([1-7])_([a-z]+)", part)
        if match and STAGES[int(match[1])] == match[2]:
            return match[2], "/".join(path.parts[place + 1 : -1])
    return "", path.parent.name
