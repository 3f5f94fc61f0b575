"""The work that targets need: pre-training runs, tasks, and the sources whose label files and records are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medssl.artefacts.names import Run
from medssl.study.dag import Dag
from medssl.study.job_inputs import STUDY_PAGE

Placed = tuple[str, Run]
"""A cohort and a run over it."""


@dataclass(frozen=True)
class Reach:
    """The work that the targets of one call need, finished or not."""

    runs: list[Placed]
    tasks: list[str]
    labelled: frozenset[str]
    """sources whose label files must exist"""
    recorded: frozenset[str] = frozenset()
    """sources whose records must exist"""


def reach(dag: Dag, targets: Iterable[str] = ()) -> Reach:
    """The work for targets, which are rules or files below the results folder; without a known target it is everything."""
    asked = list(targets) or ["all"]
    runs: list[Placed] = []
    tasks: list[str] = []
    labelled: set[str] = set()
    for target in asked:
        stage, *names = _place(dag, target)
        if stage == "1_ingest" and names[1:2] == ["labels"]:
            labelled |= {names[0]}
        elif stage == "3_reduce" and len(names) > 1:
            runs += _embedding(dag, names[1])
        elif stage == "4_pretrain":
            runs += [pair for pair in dag.runs() if [pair[0], str(pair[1])] == names[:2]]
        elif stage in ("5_finetune", "6_evaluate"):
            tasks += [task for task in dag.study.finetune if task in names[:1]]
        elif stage == "7_report":
            pages = [page for page in dag.pages() if page in names[:1]]
            runs += [pair for page in pages for pair in dag.runs(None if page == STUDY_PAGE else page)]
            runs += [pair for arm in dag.arms for pair in _embedding(dag, arm)]
            tasks += dag.study.finetune if STUDY_PAGE in pages else []
    tasks = list(dict.fromkeys(tasks))
    runs = _with_those_before(dag, [*runs, *(pair for task in tasks for pair in dag.runs_for(dag.study.finetune[task]))])
    sources = [dag.study.finetune[task].source for task in tasks]
    labelled |= {source for source in sources if dag.study.sources[source].labels}
    labelled |= {source for cohort, run in runs for source in dag.pretrain_inputs(cohort, run).get("labels", {})}
    recorded = {source for cohort, run in runs for source in dag.pretrain_inputs(cohort, run).get("records", {})}
    return Reach(runs, tasks, frozenset(labelled), frozenset(recorded))


def _place(dag: Dag, target: str) -> list[str]:
    """A target as the folder of a stage and the names below it."""
    if target.startswith("pretrain_") and "/" not in target:
        return ["7_report", target.removeprefix("pretrain_")]
    if "/" in target:
        file, root = Path(target).absolute(), dag.layout.root.absolute()
        if file.is_relative_to(root) and file != root:
            parts = list(file.relative_to(root).parts)
            return [*parts, ""] if len(parts) == 1 else parts
    return ["7_report", STUDY_PAGE]


def _with_those_before(dag: Dag, runs: list[Placed]) -> list[Placed]:
    """Runs with those that they start from and those that embed their slices, each once."""
    found: dict[Placed, None] = {}
    waiting = list(reversed(runs))
    while waiting:
        pair = waiting.pop()
        if pair not in found:
            found[pair] = None
            waiting += [*_begun_from(dag, pair[1]), *_embedding(dag, pair[1].arm)]
    return list(found)


def _begun_from(dag: Dag, run: Run) -> Iterator[Placed]:
    before = dag.study.pretrain[run.name].init_run
    if before is not None:
        yield dag.study.cohort_of(dag.study.pretrain[before]), Run(before, run.arm, run.seed)


def _embedding(dag: Dag, arm: str) -> Iterator[Placed]:
    """The runs whose encoders an arm uses: its own, and that of the arm whose count it matches."""
    names = [arm, dag.arms[arm].match] if arm in dag.arms else []
    encoders = {dag.arms[name].encoder for name in names if name is not None}
    return (pair for pair in dag.runs() if str(pair[1]) in encoders)
