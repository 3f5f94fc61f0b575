"""What a target leads to is said, and what concerns other work is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medssl.study.dag import Dag
from medssl.study.file import read_study
from medssl.study.reach import reach

Notes = Callable[..., list[str]]
Refusal = Callable[..., str]

STUDY = """\
sources:
  ct: {path: scans}
  organs: {path: classes, labels: folders}
reduce: {arms: {hash: {}, close: {reducer: embedding, encoder: first-hash-seed0}, same: {reducer: every_n, match: close}}}
pretrain:
  first: {cohort: ct, batch_size: 64}
  second: {cohort: ct, batch_size: 64, init_run: first}
  third: {cohort: organs, batch_size: 64, arms: [same]}
finetune:
  spots: {source: organs, inits: [second]}
"""
RUNS = ["first-hash-seed0", "second-hash-seed0", "third-same-seed0"]


@pytest.mark.parametrize(
    ("target", "runs", "tasks"),
    [
        (None, RUNS, ["spots"]),
        ("all", RUNS, ["spots"]),
        ("report", RUNS, ["spots"]),
        ("elsewhere/file", RUNS, ["spots"]),
        ("pretrain_ct", RUNS[:2], []),
        ("results/mine/7_report/ct/report.html", RUNS[:2], []),
        ("results/mine/7_report/study/report.html", RUNS, ["spots"]),
        ("results/mine/1_ingest/ct/series.tsv", [], []),
        ("results/mine/2_prepare/organs/samples.parquet", [], []),
        ("results/mine/specs/ingest/ct.json", [], []),
        ("results/mine/3_reduce/ct/hash/keep.parquet", [], []),
        ("results/mine/3_reduce/ct/close/keep.parquet", RUNS[:1], []),
        ("results/mine/3_reduce/ct/same/keep.parquet", RUNS[:1], []),
        ("results/mine/4_pretrain/ct/first-hash-seed0/curve.tsv", RUNS[:1], []),
        ("results/mine/4_pretrain/ct/second-hash-seed0/curve.tsv", RUNS[:2], []),
        ("results/mine/4_pretrain/organs/third-same-seed0/curve.tsv", [RUNS[0], RUNS[2]], []),
        ("results/mine/5_finetune/spots/fits.tsv", RUNS[:2], ["spots"]),
        ("results/mine/6_evaluate/spots/scores.tsv", RUNS[:2], ["spots"]),
    ],
)
def test_a_target_leads_to_the_jobs_before_it_and_to_no_others(
    notes: Notes, target: str | None, runs: list[str], tasks: list[str]
) -> None:
    Path("mine.yaml").write_text(STUDY)
    dag = Dag(read_study(files=["mine.yaml"])[0])
    for of in [target, str(Path(target).resolve()) if target and target.startswith("results") else target]:
        found = reach(dag, [] if of is None else [of])
        assert sorted(str(run) for _, run in found.runs) == runs and found.tasks == tasks
    said = notes(STUDY, *([] if target is None else [target]))
    assert sorted(word for note in said for word in RUNS if f"a step of {word} sees" in note) == runs


def test_the_jobs_that_a_file_leads_to_are_those_whose_specs_say_so(notes: Notes) -> None:
    """Slow reference: from each job's output back over the inputs of the specs."""
    Path("mine.yaml").write_text(STUDY)
    dag = Dag(read_study(files=["mine.yaml"])[0])
    specs = dict(dag.specs())
    by_folder = {str(Path(spec.out)): path for path, spec in specs.items()}
    for path, spec in specs.items():
        wanted, waiting = set(), [path]
        while waiting:
            job = waiting.pop()
            if job not in wanted:
                wanted.add(job)
                inputs = dag.reads(specs[job].stage, specs[job].name)
                waiting += [by_folder[str(Path(one).parent)] for one in inputs if str(Path(one).parent) in by_folder]
        found = reach(dag, [f"{spec.out.rstrip('/')}/receipt.json"])
        assert {specs[job].name for job in wanted if specs[job].stage == "pretrain"} == {f"{c}/{r}" for c, r in found.runs}, path
        tasks = {specs[job].name for job in wanted if specs[job].stage == "finetune"}
        assert tasks == set(found.tasks), path
        assert {specs[job].name.split("/")[0] for job in wanted if specs[job].name.endswith("/labels")} == found.labelled, path


def test_labels_that_come_late_stop_only_what_reads_them(notes: Notes, refusal: Refusal) -> None:
    text = STUDY.replace("labels: folders", "labels: late.csv").replace("third: {cohort: organs", "third: {cohort: ct")
    for target in ("results/mine/1_ingest/organs/series.tsv", "pretrain_ct"):
        assert not any("late.csv" in note for note in notes(text, target))
    for target in ("results/mine/1_ingest/organs/labels/labels.parquet", "results/mine/5_finetune/spots/fits.tsv", "report"):
        assert "nothing at 'late.csv'" in refusal(text, target)


def test_labels_that_a_pre_training_reads_must_be_there(notes: Notes, refusal: Refusal) -> None:
    text = "sources:\n  ct: {path: scans, labels: late.csv}\n"
    text += "pretrain:\n  a: {batch_size: 2, objective: {sepclr: {background: BACK}}}\n"
    assert "nothing at 'late.csv'" in refusal(text.replace("BACK", "healthy"), "pretrain_ct")
    assert "fine-tuning will" in notes(text.replace("BACK", "ct"), "pretrain_ct")[0]
