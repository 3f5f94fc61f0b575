"""What can be known before work starts is said before work starts: with file, line, what was tried and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from medssl.core.files import write_json
from medssl.study.checks import MOST_OF_A_SLICE
from medssl.study.dag import Dag
from medssl.study.file import read_study

Notes = Callable[..., list[str]]
Refusal = Callable[..., str]

GOOD = """\
sources:
  ct: {path: scans}
  organs: {path: organs}
pretrain:
  simclr: {cohort: ct, batch_size: 2}
"""


def test_a_sound_study_has_nothing_to_say(notes: Notes, refusal: Refusal) -> None:
    assert notes(GOOD) == [] == notes(GOOD, "pretrain_ct", "report", "all")


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("path: scans", "path: scnas", 2, ["sources.ct.path", "does not exist", "scnas)", "Did you mean 'scans'"]),
        ("pretrain:", "cohorts: {pool: []}\npretrain:", 4, ["cohort 'pool' has no sources", "ct, organs"]),
        ("pretrain:", "cohorts: {pool: [ct, ct]}\npretrain:", 4, ["'ct' stands twice"]),
        ("pretrain:", "cohorts: {organs: [ct]}\npretrain:", 4, ["'organs' is a source too"]),
        ("pretrain:", "cohorts: {study: [ct]}\npretrain:", 4, ["'study' is reserved"]),
        ("simclr: {", "scratch: {", 5, ["'scratch' is reserved", "random weights"]),
        (
            "cohort: ct,",
            "cohort: ct, init_weights: net.safetensors,",
            5,
            ["pretrain.simclr.init_weights", "nothing at", "tried /"],
        ),
        ("path: organs", "path: organs, prepare: {split: {file: mine.tsv}}", 3, ["split.file", "nothing at 'mine.tsv'"]),
        ("  ct: {path: scans}", "  ct: {path: scans, labels: late.csv}", 2, ["nothing at 'late.csv'"]),
    ],
)
def test_a_mistake_is_named_with_its_line_before_any_work(
    notes: Notes, refusal: Refusal, old: str, new: str, line: int, words: list[str]
) -> None:
    task = "finetune: {spots: {source: ct}}\n" if "late" in new else ""
    found = refusal(GOOD.replace(old, new) + task)
    assert found.startswith(f"mine.yaml:{line}: "), found
    assert all(word in found for word in words), found


def test_all_mistakes_are_reported_at_once(notes: Notes, refusal: Refusal) -> None:
    found = refusal(GOOD.replace("scans", "nowhere").replace("path: organs", "path: elsewhere")).splitlines()
    assert [line.split(": ")[1] for line in found] == ["sources.ct.path", "sources.organs.path"]


@pytest.mark.parametrize(
    ("weights", "words"),
    [("scratch", "'scratch' is reserved"), ("simclr", "'simclr' is a pre-training of this study too")],
)
def test_weights_cannot_take_the_name_of_another_start(
    folder: Path, notes: Notes, refusal: Refusal, weights: str, words: str
) -> None:
    (folder / "net.safetensors").write_bytes(b"x")
    task = f"finetune:\n  organs:\n    source: organs\n    weights:\n      {weights}: net.safetensors\n"
    found = refusal(GOOD + task)
    assert found.startswith("mine.yaml:10: ") and words in found


def test_sources_of_a_cohort_need_equally_many_windows(notes: Notes, refusal: Refusal) -> None:
    two = "{path: organs, prepare: {window_hu: [[-1000, 400], [-160, 240]]}}"
    found = refusal(GOOD.replace("{path: organs}", two) + "cohorts: {both: [ct, organs]}\n")
    assert "equally many windows" in found and "'ct': 1" in found and "'organs': 2" in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name\tsplit\np-00000000000a\ttrain\n", None),
        ("name,split\na,train\n", "header"),
        ("id\tsplit\n0.png\ttrain\n1.png\ttest\n", "no id of mine.tsv is one that medssl gives, the first is '0.png'"),
        ("name\tsplit\na\ttrian\n", "row 2 has 'trian'"),
        ("name\tsplit\n# a comment\na\ttrain\na\ttest\n", "again in row 4"),
    ],
)
def test_a_split_file_is_read_before_any_work(folder: Path, notes: Notes, refusal: Refusal, text: str, words: str | None) -> None:
    (folder / "mine.tsv").write_text(text)
    study = GOOD + "prepare: {split: {file: mine.tsv}}\n"
    if words is None:
        assert notes(study) == []
    else:
        assert words in refusal(study)


TASK = "finetune:\n  spots: {source: SOURCE, task: KIND}\n"


def labelled(text: str, kind: str = "classification") -> str:
    Path("labels.csv").write_text(text)
    return GOOD.replace("{path: scans}", "{path: scans, labels: labels.csv}") + TASK.replace("SOURCE", "ct").replace("KIND", kind)


@pytest.mark.parametrize(
    ("table", "kind", "words"),
    [
        ("id,label\n0,a\n1,b\n", "classification", None),
        ("id,class\n0,a\n1,b\n", "classification", "no row has a 'label'"),
        ("id,label\n0,a\n1,b\n", "segmentation", None),  # DICOM may hold SEG and RTSTRUCT
        ("name,label\n0,a\n", "classification", "needs `id`"),
        ("id,label\n0,a\n1,b\n0,c\n", "classification", "rows 2 and 4 say different things of '0'"),
        ("id,label\n0,a\n1,b\n0,a\n", "classification", None),
    ],
)
def test_a_label_table_is_read_before_any_work(notes: Notes, refusal: Refusal, table: str, kind: str, words: str | None) -> None:
    study = labelled(table, kind)
    if words is None:
        assert notes(study) == []
    else:
        assert words in refusal(study)


def test_a_column_of_subgroups_must_be_there(notes: Notes, refusal: Refusal) -> None:
    study = labelled("id,label,sex\n0,a,f\n1,b,m\n").replace("labels: labels.csv", "labels: labels.csv, groups: [sxe]")
    assert "no column 'sxe'" in refusal(study) and "Did you mean 'sex'" in refusal(study)


def test_labels_that_come_late_are_a_note_for_pre_training_alone(notes: Notes, refusal: Refusal) -> None:
    study = GOOD.replace("{path: scans}", "{path: scans, labels: late.csv}") + TASK.replace("SOURCE", "ct").replace(
        "KIND", "classification"
    )
    (note,) = notes(study, "pretrain_ct")
    assert "nothing at 'late.csv'" in note and "fine-tuning will" in note
    assert "nothing at 'late.csv'" in refusal(study) and "nothing at 'late.csv'" in refusal(study, "report")


def test_an_arm_smaller_than_the_batch_is_reported(notes: Notes, refusal: Refusal) -> None:
    text = GOOD.replace("batch_size: 2", "batch_size: 64")
    (note,) = notes(text)
    assert "mine.yaml:5: " in note and "at most 4 samples" in note and "sees 4 of 64" in note
    study, _ = read_study(files=["mine.yaml"])
    write_json(Dag(study).layout.reduce("ct", "hash", "summary.json"), {"kept": 3})
    assert "has 3 samples" in notes(text)[0]
    write_json(Dag(study).layout.reduce("ct", "hash", "summary.json"), {})  # damaged: the job will say so
    assert "at most 4 samples" in notes(text)[0]
    assert notes(text.replace("cohort: ct", "cohort: organs")) == []  # one NPZ holds any number
    Path(Dag(study).layout.reduce("ct", "hash", "summary.json")).unlink()
    os.truncate("scans/0.dcm", MOST_OF_A_SLICE + 1)
    assert notes(text) == []  # and so does a file of many frames


def test_a_batch_too_small_for_the_statistic_of_its_objective_is_reported(notes: Notes) -> None:
    text = GOOD.replace("simclr: {cohort: ct, batch_size: 2", "wide: {cohort: organs, objective: lejepa, batch_size: 127")
    found = [note for note in notes(text) if "Gaussian statistic" in note]
    assert len(found) == 1 and "mine.yaml:5: " in found[0] and "sees 127 images, fewer than 128" in found[0]
    assert not any("Gaussian" in note for note in notes(text.replace("127", "128")))


@pytest.mark.parametrize(("objective", "each"), [("dino", 8), ("deepcluster_v2", 4), ("swav", 1)])
def test_more_prototypes_than_samples_fill_are_reported(notes: Notes, objective: str, each: int) -> None:
    """Four files hold at most four samples."""
    text = GOOD.replace("simclr: {cohort: ct,", f"few: {{cohort: ct, objective: {{{objective}: {{prototypes: 5}}}},")
    (note,) = [note for note in notes(text) if "prototypes" in note]
    assert "mine.yaml:5: pretrain.few.objective: few-" in note
    assert f"asks for 5 prototypes, and has at most 4 samples: fewer than {each} for each" in note
    fits = text.replace("prototypes: 5", "prototypes: 4")
    assert any("prototypes" in note for note in notes(fits)) == (each > 1)
    assert not any("prototypes" in note for note in notes(text.replace("cohort: ct", "cohort: organs")))


def test_an_unknown_target_is_answered_with_those_there_are(notes: Notes, refusal: Refusal) -> None:
    found = refusal(GOOD, "pretrain_lung")
    assert "no target 'pretrain_lung'" in found and "all, report, pretrain_ct" in found
    assert notes(GOOD, "results/mine/7_report/ct/report.html") == []
