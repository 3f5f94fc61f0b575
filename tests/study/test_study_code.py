"""Touch a file that a job can load and its code hash changes; touch another and it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medssl.core import code, plugins
from medssl.core.options import Options
from medssl.evaluate.options import EvaluationOptions
from medssl.finetune.options import TaskOptions
from medssl.ingest.options import IngestOptions
from medssl.pretrain.options import RunOptions
from medssl.reduce.options import ResolvedArmOptions
from medssl.report.options import PageOptions
from medssl.study.dag import Dag
from medssl.study.file import load_study

STUDY: dict[str, Any] = {
    "sources": {"ct": {"path": "scans"}, "organs": {"path": "organs"}},
    "reduce": {"arms": {"hash": {}, "near": {"reducer": "embedding", "encoder": "flat-hash-seed0"}}},
    "pretrain": {
        "flat": {"cohort": "ct", "backbone": "resnet18"},
        "joint": {"cohort": "ct", "objective": "joint_2d3d", "backbone": "resnet50"},
        "deep": {"cohort": "ct", "objective": "spark", "backbone": {"slicewise": {"slices": "convnext_tiny"}}, "spatial_dims": 3},
    },
    "finetune": {
        "plain": {"source": "organs", "inits": ["flat"]},
        "masks": {"source": "organs", "task": "segmentation", "inits": [], "backbone": "unet"},
        "volume": {"source": "organs", "inits": ["joint"], "encoder": "volume"},
        "common": {"source": "organs", "inits": ["flat"], "encoder": "common"},
        "scratch": {"source": "organs", "inits": []},
    },
    "evaluate": {"metrics": ["auc", "dice"]},
    "report": {"sections": ["data", "results"]},
}
EXPECTED: dict[str, set[tuple[str, str]]] = {
    "reduce ct/hash": {("reducer", "hash")},
    "reduce ct/near": {("reducer", "embedding"), ("backbone", "resnet18")},
    "pretrain ct/flat-hash-seed0": {("objective", "simclr"), ("backbone", "resnet18")},
    "pretrain ct/joint-hash-seed0": {("objective", "joint_2d3d"), ("backbone", "resnet50")},
    "pretrain ct/deep-hash-seed0": {("objective", "spark"), ("backbone", "slicewise"), ("backbone", "convnext_tiny")},
    "finetune plain": {("task", "classification"), ("backbone", "resnet18")},
    "finetune masks": {("task", "segmentation"), ("backbone", "unet")},
    "finetune volume": {("task", "classification"), ("backbone", "resnet50"), ("backbone", "slicewise")},
    "finetune common": {("task", "classification"), ("backbone", "resnet18"), ("backbone", "bottleneck")},
    "finetune scratch": {("task", "classification"), ("backbone", "resnet18")},
    "evaluate plain": {("metric", "auc"), ("metric", "dice"), ("metric", "brier"), ("metric", "calibration_error")},
    "report ct": {("section", "data"), ("section", "results")},
}
"""What each job can load, read off the study above by hand; Brier score and calibration error are beside every score."""
JOBS: dict[str, type[Options]] = {
    "reduce": ResolvedArmOptions,
    "pretrain": RunOptions,
    "finetune": TaskOptions,
    "evaluate": EvaluationOptions,
    "report": PageOptions,
}


def specs(**changes: Any) -> dict[str, Any]:
    return {f"{spec.stage} {spec.name}": spec for _, spec in Dag(load_study({**STUDY, **changes})).specs()}


def reached_from(path: Path) -> set[Path]:
    """The files that a file reaches through imports, itself among them."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += code.imported_files(path)
    return found


def all_plugins() -> Iterator[plugins.Plugin]:
    for kind in plugins.KINDS:
        yield from plugins.all_of(kind)


@pytest.mark.parametrize("touched", list(all_plugins()), ids=lambda plugin: f"{plugin.kind}-{plugin.name}")
def test_a_touched_plug_in_changes_the_hash_of_exactly_the_jobs_that_can_load_it(
    touched: plugins.Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = specs()
    parsed = code._parsed
    monkeypatch.setattr(code, "_parsed", lambda path: (parsed(path)[0] + "!" * (path == touched.path), parsed(path)[1]))
    after = specs()
    for job, named in EXPECTED.items():
        starts = [plugins.find(kind, name).path for kind, name in named] + [code.PACKAGE / job.split()[0] / "run.py"]
        reached = set().union(*map(reached_from, starts))
        assert (before[job].code != after[job].code) == (touched.path in reached), job


def test_a_stage_that_is_not_limited_to_some_plug_ins_has_all_in_its_hash() -> None:
    found = specs(evaluate={}, report={})
    for job, options, kind in (
        ("ingest ct", IngestOptions, "check"),
        ("evaluate plain", EvaluationOptions, "metric"),
        ("report ct", PageOptions, "section"),
    ):
        assert {plugin.name for plugin in options(**found[job].options).plugins()} == set(plugins.names(kind))


@pytest.mark.parametrize("job", EXPECTED)
def test_a_job_can_load_what_its_plan_hashed(job: str) -> None:
    """The options that the job reads from its spec name the same plug-ins as those that the plan was made of."""
    again = JOBS[job.split()[0]](**json.loads(specs()[job].to_json())["options"])
    assert {(plugin.kind, plugin.name) for plugin in again.plugins()} == EXPECTED[job]


def test_no_plug_in_is_imported_by_the_code_of_a_stage() -> None:
    """Else its name would be written down somewhere, and every job of the stage would have it in its hash."""
    homes = {code.PACKAGE / folder for folder in plugins.KINDS.values()}
    for stage in ("ingest", "prepare", "reduce", "pretrain", "finetune", "evaluate", "report"):
        named = {p for p in reached_from(code.PACKAGE / stage / "run.py") if p.parent in homes and p.name != "__init__.py"}
        assert named == set(), stage
