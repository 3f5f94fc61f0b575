"""The jobs of one run of Snakemake and their states, from its log events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medssl.core.store import RECEIPT, read_receipt

Doing = Literal["waiting", "running", "done", "failed", "stopped"]
"""`stopped`: it ended with an error after a signal to stop."""


@dataclass
class Followed:
    """One job of the DAG that runs a command; the folder and name of its log are its stage and name."""

    number: int
    kind: str
    """name of the rule: jobs of one kind take similar time"""
    log: Path
    after: tuple[int, ...] = ()
    threads: int = 1
    receipt: Path | None = None
    doing: Doing = "waiting"
    began_s: float = 0.0
    took_s: float | None = None
    """in this run; None until it ends, and if it was restored from the store"""
    earlier_s: float | None = None
    """from the receipt of an earlier run"""
    said: str = ""
    """the executor's reason for its failure"""

    @property
    def stage(self) -> str:
        """Its stage."""
        return self.log.parent.name

    @property
    def title(self) -> str:
        """Its name on the screen: its stage and the name of its log."""
        return f"{self.stage} {self.log.stem}"


@dataclass
class Jobs:
    """All jobs of the run's DAG that run a command, including finished ones, by Snakemake's number."""

    by_number: dict[int, Followed] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    """error messages of Snakemake itself while jobs ran"""

    @classmethod
    def of(cls, dag: Any) -> Jobs:
        """The jobs of Snakemake's DAG, once it knows which of them need to run."""
        needed = set(dag.needrun_jobs())
        found = {}
        for job in dag.jobs:
            if not job.log:
                continue
            receipts = [Path(file) for file in job.output if Path(file).name == RECEIPT]
            made = Followed(
                number=dag.jobid(job),
                kind=job.rule.name,
                log=Path(job.log[0]),
                after=tuple(dag.jobid(before) for before in dag.dependencies[job]),
                threads=int(job.threads) if job in needed else 1,
                receipt=receipts[0] if receipts else None,
                doing="waiting" if job in needed else "done",
            )
            made.earlier_s = _wall_s(made.receipt)
            found[made.number] = made
        return cls(found)

    def hear(self, event: str | None, values: Mapping[str, Any], now_s: float, *, signalled: bool = False) -> None:
        """Take in one of Snakemake's log events, with the fields of its record; `signalled`: the run was asked to stop."""
        number = values.get("jobid", values.get("job_id"))
        job = self.by_number.get(number) if isinstance(number, int) else None
        if job is not None and event == "job_info":
            job.doing, job.began_s = "running", now_s
        elif job is not None and event == "job_finished" and job.doing != "done":
            job.doing = "done"
            job.took_s = None if _is_restored(job.receipt) else now_s - job.began_s
        elif job is not None and event == "job_error":
            job.doing, job.said = "stopped" if signalled else "failed", str(values.get("rule_msg") or "")
        elif event == "error":
            self.errors.append(str(values.get("msg") or ""))

    def doing(self, *what: Doing) -> list[Followed]:
        """The jobs in one of these states, in the order of the DAG."""
        return [job for job in self.by_number.values() if job.doing in what]

    def stages(self) -> dict[str, tuple[int, int]]:
        """By stage, in order: the number of finished jobs and of all jobs."""
        order = ("ingest", "prepare", "reduce", "pretrain", "finetune", "evaluate", "report")
        jobs = sorted(self.by_number.values(), key=lambda job: order.index(job.stage) if job.stage in order else len(order))
        names = list(dict.fromkeys(job.stage for job in jobs))
        return {
            name: (sum(job.doing == "done" for job in jobs if job.stage == name), sum(job.stage == name for job in jobs))
            for name in names
        }


def _wall_s(receipt: Path | None) -> float | None:
    stated = None if receipt is None or not receipt.is_file() else read_receipt(receipt)
    seconds = None if stated is None else stated.get("wall_s")
    return None if seconds is None else float(seconds)


def _is_restored(receipt: Path | None) -> bool:
    stated = None if receipt is None or not receipt.is_file() else read_receipt(receipt)
    return stated is not None and "restored" in stated
