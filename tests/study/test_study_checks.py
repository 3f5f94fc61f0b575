"""What can be known before work starts is said before work starts: with file, line, what was tried and what to do."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from medssl.core.errors import StudyError
from medssl.core.files import write_json
from medssl.study.checks import check_study
from medssl.study.dag import Dag
from medssl.study.file import read_study

GOOD = """\
sources:
  ct: {path: scans}
  organs: {path: organs}
pretrain:
  simclr: {cohort: ct, batch_size: 2}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with DICOM-like files, an NPZ and pictures."""
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        (tmp_path / "scans").mkdir(exist_ok=True)
        (tmp_path / "scans" / f"{number}.dcm").write_bytes(b"x")
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / f"{number}.png").write_bytes(b"x")
    (tmp_path / "organs").mkdir()
    with zipfile.ZipFile(tmp_path / "organs" / "set.npz", "w") as archive:
        archive.writestr("train_images.npy", b"")
    return tmp_path


def notes(text: str, *targets: str) -> list[str]:
    Path("mine.yaml").write_text(text)
    study, places = read_study(files=["mine.yaml"])
    return check_study(Dag(study), places, targets)


def refusal(text: str, *targets: str) -> str:
    with pytest.raises(StudyError) as caught:
        notes(text, *targets)
    return str(caught.value)


def test_a_sound_study_has_nothing_to_say() -> None:
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
def test_a_mistake_is_named_with_its_line_before_any_work(old: str, new: str, line: int, words: list[str]) -> None:
    task = "finetune: {spots: {source: ct}}\n" if "late" in new else ""
    found = refusal(GOOD.replace(old, new) + task)
    assert found.startswith(f"mine.yaml:{line}: "), found
    assert all(word in found for word in words), found


def test_all_mistakes_are_said_at_once() -> None:
    found = refusal(GOOD.replace("scans", "nowhere").replace("path: organs", "path: elsewhere")).splitlines()
    assert [line.split(": ")[1] for line in found] == ["sources.ct.path", "sources.organs.path"]


@pytest.mark.parametrize(
    ("weights", "words"),
    [("scratch", "'scratch' is reserved"), ("simclr", "'simclr' is a pre-training of this study too")],
)
def test_weights_cannot_take_the_name_of_another_start(folder: Path, weights: str, words: str) -> None:
    (folder / "net.safetensors").write_bytes(b"x")
    task = f"finetune:\n  organs:\n    source: organs\n    weights:\n      {weights}: net.safetensors\n"
    found = refusal(GOOD + task)
    assert found.startswith("mine.yaml:10: ") and words in found


def test_sources_of_a_cohort_need_equally_many_windows() -> None:
    two = "{path: organs, prepare: {window_hu: [[-1000, 400], [-160, 240]]}}"
    found = refusal(GOOD.replace("{path: organs}", two) + "cohorts: {both: [ct, organs]}\n")
    assert "equally many windows" in found and "'ct': 1" in found and "'organs': 2" in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name\tsplit\na\ttrain\n", None),
        ("name,split\na,train\n", "header"),
        ("name\tsplit\na\ttrian\n", "row 2 has 'trian'"),
        ("name\tsplit\n# a comment\na\ttrain\na\ttest\n", "again in row 4"),
    ],
)
def test_a_split_file_is_read_before_any_work(folder: Path, text: str, words: str | None) -> None:
    (folder / "mine.tsv").write_text(text)
    study = GOOD + "prepare: {split: {file: mine.tsv}}\n"
    if words is None:
        assert notes(study) == []
    else:
        assert words in refusal(study)


TASK = "finetune:\n  spots: {source: SOURCE, task: KIND}\n"


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        ("ct", "classification", "has no labels"),
        ("ct", "segmentation", None),  # DICOM may hold SEG and RTSTRUCT
        ("organs", "classification", None),
        ("pictures", "segmentation", "has no masks"),
        ("pictures", "classification", "has no labels"),
    ],
)
def test_a_task_needs_labels_that_its_source_can_have(source: str, kind: str, words: str | None) -> None:
    study = GOOD.replace("sources:\n", "sources:\n  pictures: {path: pictures}\n")
    study += TASK.replace("SOURCE", source).replace("KIND", kind)
    if words is None:
        assert notes(study) == []
    else:
        assert words in refusal(study) and notes(study, "pretrain_ct") == []  # pre-training does not need them


def labelled(text: str, kind: str = "classification") -> str:
    Path("labels.csv").write_text(text)
    return GOOD.replace("{path: scans}", "{path: scans, labels: labels.csv}") + TASK.replace("SOURCE", "ct").replace("KIND", kind)


@pytest.mark.parametrize(
    ("table", "kind", "words"),
    [
        ("id,label\n0,a\n1,b\n", "classification", None),
        ("id,class\n0,a\n1,b\n", "classification", "no row has a 'label'"),
        ("id,label\n0,a\n1,b\n", "segmentation", "no row has a 'mask'"),
        ("name,label\n0,a\n", "classification", "needs `id`"),
        ("id,label\n0,a\n1,b\n0,c\n", "classification", "rows 2 and 4 say different things of '0'"),
        ("id,label\n0,a\n1,b\n0,a\n", "classification", None),
    ],
)
def test_a_label_table_is_read_before_any_work(table: str, kind: str, words: str | None) -> None:
    study = labelled(table, kind)
    if words is None:
        assert notes(study) == []
    else:
        assert words in refusal(study)


def test_a_column_of_subgroups_must_be_there() -> None:
    study = labelled("id,label,sex\n0,a,f\n1,b,m\n").replace("labels: labels.csv", "labels: labels.csv, groups: [sxe]")
    assert "no column 'sxe'" in refusal(study) and "Did you mean 'sex'" in refusal(study)


def test_labels_that_come_late_are_a_note_for_pre_training_alone() -> None:
    study = GOOD.replace("{path: scans}", "{path: scans, labels: late.csv}") + TASK.replace("SOURCE", "ct").replace(
        "KIND", "classification"
    )
    (note,) = notes(study, "pretrain_ct")
    assert "nothing at 'late.csv'" in note and "fine-tuning will" in note
    assert "nothing at 'late.csv'" in refusal(study) and "nothing at 'late.csv'" in refusal(study, "report")


def test_an_arm_smaller_than_the_batch_is_said() -> None:
    text = GOOD.replace("batch_size: 2", "batch_size: 64")
    (note,) = notes(text)
    assert "mine.yaml:5: " in note and "at most 4 samples" in note and "sees 4 of 64" in note
    study, _ = read_study(files=["mine.yaml"])
    write_json(Dag(study).layout.reduce("ct", "hash", "summary.json"), {"kept": 3})
    assert "has 3 samples" in notes(text)[0]
    assert notes(text.replace("cohort: ct", "cohort: organs")) == []  # one NPZ holds any number


def test_an_unknown_target_is_answered_with_those_there_are() -> None:
    found = refusal(GOOD, "pretrain_lung")
    assert "no target 'pretrain_lung'" in found and "all, report, pretrain_ct" in found
    assert notes(GOOD, "results/mine/7_report/ct/report.html") == []
