"""Where every artefact lives: the only place where paths are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PRIVATE = Path(".medssl")
"""Lies in the folder where a study runs, never inside results: the id key and the listings with real paths."""


@dataclass(frozen=True)
class Layout:
    """Paths of one study. Names may hold Snakemake wildcards such as `{source}`; nothing on disk is touched."""

    root: Path

    @classmethod
    def of(cls, output: str, study: str) -> Layout:
        """The layout of a study below an output folder."""
        return cls(Path(output) / study)

    def spec(self, stage: str, name: str) -> str:
        return str(self.root / "specs" / stage / f"{name}.json")

    def listing(self, source: str) -> str:
        """Path of the count and keyed digest of a source's files, which are all that the DAG knows of the source."""
        return str(self.root / "sources" / f"{source}.json")

    def label_listing(self, source: str) -> str:
        """The same for a source's label files."""
        return str(self.root / "sources" / f"{source}-labels.json")

    def record_listing(self, source: str) -> str:
        """The same for its table of records."""
        return str(self.root / "sources" / f"{source}-records.json")

    def private(self, source: str, name: str) -> str:
        """A file with real paths, outside the results."""
        return str(PRIVATE / self.root.name / source / name)

    def record(self, source: str, column: str, name: str = "") -> str:
        """What a column of a source's records says of its images: outside the results, as it may describe people."""
        return self.private(source, str(Path("records", column, name)))

    def ingest(self, source: str, name: str = "") -> str:
        return str(self.root / "1_ingest" / source / name)

    def labels(self, source: str, name: str = "") -> str:
        return str(self.root / "1_ingest" / source / "labels" / name)

    def prepare(self, source: str, name: str = "") -> str:
        return str(self.root / "2_prepare" / source / name)

    def describe(self, cohort: str, name: str = "") -> str:
        return str(self.root / "3_reduce" / cohort / name)

    def leakage(self, cohort: str, name: str = "") -> str:
        return str(self.root / "3_reduce" / cohort / "leakage" / name)

    def reduce(self, cohort: str, arm: str, name: str = "") -> str:
        return str(self.root / "3_reduce" / cohort / arm / name)

    def pretrain(self, cohort: str, run: str, name: str = "") -> str:
        return str(self.root / "4_pretrain" / cohort / run / name)

    def finetune(self, task: str, name: str = "") -> str:
        return str(self.root / "5_finetune" / task / name)

    def evaluate(self, task: str, name: str = "") -> str:
        return str(self.root / "6_evaluate" / task / name)

    def report(self, page: str = "", name: str = "") -> str:
        return str(self.root / "7_report" / page / name)

    def state(self, stage: str, name: str) -> str:
        return str(self.root / "state" / stage / name)

    def log(self, stage: str, name: str) -> str:
        return str(self.root / "logs" / stage / f"{name}.log")

    def of_log(self, kind: str, log: Path | str, suffix: str) -> Path:
        """A state file of the job with this log: every job of the DAG has a log of its own."""
        return Path(self.state(kind, str(Path(Path(log).parent.name, Path(log).stem)) + suffix))

    def output(self, log: Path | str) -> Path:
        """Standard error of a job under a screen: private, because a traceback may name a file of a source."""
        return Path(self.private(".output", f"{Path(log).parent.name}-{Path(log).stem}.txt"))

    def benchmark(self, stage: str, name: str) -> str:
        return str(self.root / "benchmarks" / stage / f"{name}.tsv")
