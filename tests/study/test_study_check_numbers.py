"""A task of numbers is refused before work if its labels are not numbers, say nothing, or contradict each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from test_study_check_labels import study

Notes = Callable[..., list[str]]
Refusal = Callable[..., str]


@pytest.mark.parametrize(
    ("path", "table", "words"),
    [
        ("pictures", "id,label\n0,61\n1,62.5\n2,70\n3,71\n", None),
        ("pictures", "id,label\n0,1e2\n1,-3\n", None),
        ("scans", "id,label\np1,61\np2,62\n", None),  # patients that headers may name
        ("pictures", "id,label\n0,61\n1,old\n", "row 3: 'old' is not a finite number; this is for finetune.spots (regression)"),
        ("pictures", "id,label\n0,61\n1,1e160\n", "row 3: '1e160' is beyond 1e+15, which no measured value is"),
        ("pictures", "id,label\n0,61\n1,-1e15\n", None),
        ("pictures", "id,label\n0,61\n1,inf\n", "row 3: 'inf' is not a finite number"),
        ("pictures", "id,label\n0,61\n1,nan\n", "row 3 has the label 'nan', as programs write that there is none"),
        ("pictures", 'id,label\n0,61\n1,"62,5"\n', "row 3: '62,5' is not a number; write the decimal sign as a point"),
        ("pictures", 'id,label\n0,"61,000"\n1,"62,500"\n', "row 2: '61,000' is not a number; write no separator of thousands"),
        ("pictures", "id;label\n0;61\n1;62\n", "the table is separated by semicolons"),
        ("pictures", "id,label\n0,61\n1,61.0\n", "all 2 labels are 61, so finetune.spots (regression) has nothing to learn"),
        ("pictures", "id,label\n0,61\n1,62\n9,old\n", None),  # a row for no image of this source
        ("pictures", "id,age\n0,61\n1,62\n", "no row has a 'label', which finetune.spots (regression) needs; the columns beside"),
        ("nifti", "id,label\npt_0,61\npt_1,62\n", None),
        ("organs", "id,label\ni-0123456789ab,61\ni-0123456789ac,62\n", None),
    ],
)
def test_labels_of_a_regression_are_numbers_that_differ(
    notes: Notes, refusal: Refusal, path: str, table: str, words: str | None
) -> None:
    text = study(path, "regression", table=table)
    if words is None:
        assert all("no label in it" in note or "rows are for no file" in note for note in notes(text))
    else:
        assert "mine.yaml:3: sources.here.labels: labels.csv: " in (found := refusal(text)) and words in found


@pytest.mark.parametrize(
    ("path", "labels", "words"),
    [
        ("classes", "folders", "'folders': these labels are classes, and finetune.spots (regression) needs a number as label"),
        ("scans", "masked", "'masked': these labels are masks, and finetune.spots (regression) needs a number as label"),
        ("pictures", None, "source 'here' has no table of labels, and finetune.spots (regression) needs a number as label"),
        ("organs", None, None),  # an NPZ may hold numbers
    ],
)
def test_a_regression_needs_a_table(notes: Notes, refusal: Refusal, path: str, labels: str | None, words: str | None) -> None:
    text = study(path, "regression", labels=labels)
    if words is None:
        assert notes(text) == []
    else:
        assert words in refusal(text)


def test_a_patient_with_two_values_has_none_of_its_own(notes: Notes, refusal: Refusal) -> None:
    for name in ("pt_0_a_ct", "pt_0_b_ct"):
        Path(f"nifti/{name}.nii.gz").write_bytes(b"x")
    rows = "id,label,subject\nnifti/pt_0_a_ct.nii.gz,61,one\nnifti/pt_0_b_ct.nii.gz,63,one\nnifti/pt_1_ct.nii.gz,70,two\n"
    text = study("nifti", "regression", table=rows.replace("nifti/", ""))
    assert all("images have no label" in note or "subject" in note for note in notes(text))
    found = refusal(text.replace("task: regression", "task: regression, options: {aggregate: unit}"))
    assert "aggregate is unit, and patients have more than one label (1, such as 'one' with 61 and 63)" in found


def test_a_patient_of_pictures_is_whom_subject_pattern_names(notes: Notes, refusal: Refusal) -> None:
    """A table by patient is read, a patient with two values is refused, and so is a pattern that does not fit a name."""
    for name in ("p1_a", "p1_b", "p2_a", "p3_a"):
        Path("people").mkdir(exist_ok=True)
        Path(f"people/{name}.png").write_bytes(b"x")

    def asked(table: str, pattern: str = "(p[0-9])_") -> str:
        text = study("people", "regression", table=f"id,label\n{table}")
        text = text.replace("task: regression", "task: regression, options: {aggregate: unit}")
        return text.replace("path: people", f"path: people, ingest: {{subject_pattern: '{pattern}'}}")

    assert notes(asked("p1,61\np2,62\np3,70\n")) == []
    assert "such as 'p1' with 61 and 63" in refusal(asked("p1_a,61\np1_b,63\np2_a,62\n"))
    assert "must match every image" in refusal(asked("p1_a,61\np2_a,62\n", "(case[0-9])"))
    stranger = refusal(asked("q1,61\nq2,62\n"))
    assert "none of its 2 rows is for a file of this source" in stranger and "has a 'label'" not in stranger
    assert "no row of a file of this source has a 'label'" in refusal(asked("p1,\nq2,62\n"))


def test_many_numbers_are_offered_the_task_that_predicts_them(refusal: Refusal) -> None:
    for n in range(12):
        Path(f"pictures/{n}.png").write_bytes(b"x")
    rows = "".join(f"{n}.png,{60 + n / 4}\n" for n in range(12))
    assert "Take a task that predicts numbers (task: regression)" in refusal(study("pictures", table=f"id,label\n{rows}"))


def test_metrics_of_classes_do_not_score_values(refusal: Refusal) -> None:
    text = study("pictures", "regression", table="id,label\n0,61\n1,62\n") + "evaluate: {metrics: [auc]}\n"
    assert "none of auc scores the values of task 'spots'. Add one of absolute_error, concordance, r2" in refusal(text)


MANY = "".join(f"p{n},{n + 1},1\n" for n in range(12))
"""Patients that headers may name."""


@pytest.mark.parametrize(
    ("path", "table", "words"),
    [
        ("scans", f"id,label,event\n{MANY}", None),
        (
            "pictures",
            f"id,label,event\n0,3,1\n1,5,0\n{MANY}",
            "2 rows, with an event in 1; finetune.spots (survival) needs 5 events",
        ),
        ("pictures", "id,label,event\n0,3,0\n1,5,0\n", "2 rows, all of them censored; finetune.spots (survival) needs 5 events"),
        (
            "pictures",
            "id,label,event\n0,7,1\n1,7,1\n",
            "all 2 cases have their event at 7, so finetune.spots (survival) has no order of times to predict",
        ),
        ("pictures", "id,label\n0,3\n1,5\n", "there is no column 'event', which finetune.spots (survival) needs"),
        ("pictures", "id,label,Event\n0,3,1\n1,5,0\n", "0 if the case was censored. Rename 'Event'"),
        ("pictures", "id,label,event\n0,3,1\n1,0,0\n", "row 3: '0' is not a time: it must be above 0"),
        ("pictures", "id,label,event\n0,3,1\n1,-2,0\n", "row 3: '-2' is not a time: it must be above 0"),
        ("pictures", "id,label,event\n0,3,1\n1,5,dead\n", "row 3: the event 'dead' is neither 1 (it happened) nor 0 (censored)"),
        ("pictures", "id,label,event\n0,3,1\n1,5,\n", "row 3: there is a time and no event"),
        ("pictures", "id,label,event\n0,3,1\n0.png,3,0\n", "rows 2 and 3 say different things of '0.png'"),
    ],
)
def test_labels_of_a_survival_analysis_are_times_with_events(
    notes: Notes, refusal: Refusal, path: str, table: str, words: str | None
) -> None:
    text = study(path, "survival", table=table)
    if words is None:
        assert notes(text) == []
    else:
        assert words in refusal(text)


def test_a_time_that_no_case_is_followed_for_has_a_note(notes: Notes) -> None:
    for horizons, beyond in (([3, 12], "12"), ([40], "40"), ([3, 11.5, "median"], None)):
        text = study("scans", "survival", table=f"id,label,event\n{MANY}")
        text += f"evaluate: {{metrics: [c_index, {{dynamic_auc: {{horizons: {json.dumps(horizons)}}}}}]}}\n"
        found = notes(text)
        assert len(found) == (beyond is not None)
        assert all(f"dynamic_auc is undefined at {beyond}: no case" in note for note in found)


@pytest.mark.parametrize(("path", "labels"), [("organs", None), ("classes", "folders"), ("scans", "masked")])
def test_a_survival_analysis_needs_a_table(refusal: Refusal, path: str, labels: str | None) -> None:
    assert "finetune.spots (survival) needs a time as label and a column 'event'" in refusal(
        study(path, "survival", labels=labels)
    )


def test_a_time_before_the_first_event_has_a_note(notes: Notes) -> None:
    """As years where labels are days. A censoring before it is not an event; an event at the time itself counts."""
    early = f"id,label,event\nq,0.2,0\n{MANY}"
    for horizons, before in (([0.5, 3], "0.5"), ([0.99], "0.99"), ([1, 3, "median"], None)):
        text = study("scans", "survival", table=early)
        text += f"evaluate: {{metrics: [c_index, {{dynamic_auc: {{horizons: {json.dumps(horizons)}}}}}]}}\n"
        found = notes(text)
        assert len(found) == (before is not None)
        assert all(
            f"dynamic_auc is undefined at {before}: no case of labels.csv has its event before 1" in note for note in found
        )


@pytest.mark.parametrize("mode", ["attentive", "full", "gradual", "lora"])
def test_a_batch_of_one_case_orders_nothing_and_of_few_has_a_note(notes: Notes, refusal: Refusal, mode: str) -> None:
    def asked(batch_size: int | None, modes: str = f"linear, {mode}", kind: str = "survival") -> str:
        size = "" if batch_size is None else f", batch_size: {batch_size}"
        network = ", backbone: vit" if mode == "lora" else ""
        text = study("scans", kind, table=f"id,label,event\n{MANY}").replace("batch_size: 2", f"batch_size: 2{network}")
        return text.replace(f"task: {kind}", f"task: {kind}, modes: [{modes}]{size}")

    assert f"mine.yaml:7: finetune.spots.batch_size: 1: the loss of mode '{mode}' compares the cases" in refusal(asked(1))
    for few in (2, 15):
        (note,) = notes(asked(few))
        assert f"mine.yaml:7: finetune.spots.batch_size: a step of mode '{mode}' sees {few} cases, fewer than 16" in note
    assert notes(asked(16)) == notes(asked(None)) == notes(asked(1, "linear")) == notes(asked(1, mode, "regression")) == []
    assert notes(asked(1), "pretrain_ct") == []  # pre-training has its own


def test_censored_times_that_a_regression_would_take_for_values_have_a_note(notes: Notes) -> None:
    (note,) = notes(study("scans", "regression", table=f"id,label,event\nq,3,0\nr,5,0.0\n{MANY}"))
    assert "mine.yaml:7: finetune.spots.task: labels.csv has the column 'event', by which 2 of 14 labels are censored" in note
    assert "set task: survival" in note
    for table in (f"id,label,event\n{MANY}", f"id,label,event\nq,3,first\n{MANY}", "id,label\np1,3\np2,4\n"):
        assert notes(study("scans", "regression", table=table)) == []
    assert notes(study("scans", "survival", table=f"id,label,event\nq,3,0\n{MANY}")) == []


def test_options_that_a_task_cannot_have_are_refused(refusal: Refusal) -> None:
    text = study("scans", "survival", table=f"id,label,event\n{MANY}").replace("task: survival", "task: survival, mixup: 0.2")
    assert "mixup: task 'survival' cannot have it: a mixture of two times to an event is not a time to an event" in refusal(text)
