"""Mistakes in a study file and in the files that it names are one sentence each, with file and line, before any work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medssl.cli import app
from medssl.core.errors import StudyError
from medssl.core.listing import nothing_at
from medssl.study import source_files

Notes = Callable[..., list[str]]
Refusal = Callable[..., str]
PEOPLE = "id,label,sex\n0.png,cat,f\n1.png,dog,m\n2.png,cat,f\n3.png,dog,m\n"


@pytest.fixture(autouse=True)
def _more(folder: Path) -> None:
    """Folders of results, a folder without an image, a label table, and files of other kinds."""
    for name in ("results/mine/1_ingest", "out/other/specs", "out/other/sources", "out/other/7_report", ".medssl", "texts"):
        (folder / name).mkdir(parents=True)
    for name in ("texts/README.md", "texts/scan.tiff", "results/mine/a.png", "out/other/7_report/a.png", ".medssl/a.png"):
        (folder / name).write_bytes(b"x")
    (folder / "people.csv").write_text(PEOPLE)
    (folder / "people").write_text(PEOPLE)


def study(path: str = "pictures", *, own: str = "", task: str = "", top: str = "", run: str = "") -> str:
    """A study of one source with a task on it; `own`: in its source, `task`, `run`: in theirs, `top`: lines at the end."""
    tasks = f"finetune: {{spots: {{source: here, inits: [simclr]{task}}}}}\n" if task != "none" else ""
    return (
        f"study: mine\nsources:\n  here: {{path: {path}{own}}}\n"
        f"pretrain: {{simclr: {{cohort: here, batch_size: 2{run}}}}}\n{tasks}{top}"
    )


def alone(path: str) -> str:
    return study(path, task="none")


LABELS = ", labels: people.csv"
SOURCE, TASK, TOP = "mine.yaml:3: sources.here.", "mine.yaml:5: finetune.spots.", "mine.yaml:6: "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # results that would be read, or cannot be written
        (alone("."), f"{SOURCE}path: '.' contains the results of this study (results/mine)"),
        (alone("results"), f"{SOURCE}path: 'results' contains the results of this study (results/mine)"),
        (alone("results/mine"), f"{SOURCE}path: 'results/mine' contains the results of this study"),
        (alone("results/mine/1_ingest/.."), f"{SOURCE}path: "),
        (alone("./results/mine/a.png"), "'./results/mine/a.png' lies within the results of this study (results/mine)"),
        (alone(".") + "output: /elsewhere\n", "contains the private files of medssl (.medssl)"),
        (alone(".medssl/a.png"), "lies within the private files of medssl"),
        (alone("out/other/7_report"), "holds results of another study (other)"),
        (alone("out"), "holds results of another study (other)"),
        (study("pictures", own=", labels: ."), f"{SOURCE}labels: '.' contains the results of this study"),
        (alone("pictures") + "output: people.csv\n", "mine.yaml:5: output: 'people.csv/mine' cannot be written to: "),
        (alone("pictures") + "output: people.csv/a\n", "people.csv' is not a folder"),
        # sources without what is asked for
        (alone("texts"), f"{SOURCE}path: no file of 'texts' can be an image, by their names: it holds 2, such as 'README.md'"),
        (study(own=LABELS, task=", encoder: inflated"), f"{TASK}encoder: encoder inflated is 3-D, which needs volumes"),
        (study(own=LABELS, task=", encoder: volume"), f"{TASK}encoder: encoder volume is 3-D, which needs volumes"),
        (study("organs", task=", encoder: inflated"), f"{TASK}encoder: encoder inflated is 3-D, which needs volumes"),
        (study(own=LABELS, run=", spatial_dims: 3"), "mine.yaml:4: pretrain.simclr.spatial_dims: 3 needs volumes"),
        (study(own=LABELS, run=", spatial_dims: 3"), f"{TASK}source: its networks are 3-D, which needs volumes"),
        # classes and counts
        (study(own=LABELS, top="evaluate: {positive: cats}\n"), f"{TOP}evaluate.positive: there is no class 'cats' in spots."),
        (study("sorted", top="evaluate: {positive: cow}\n"), f"{TOP}evaluate.positive: there is no class 'cow' in spots."),
        (study(own=f"{LABELS}, class_names: {{cats: Cat}}"), f"{SOURCE}class_names: the labels of 'here' have no class 'cats'."),
        (study(own=LABELS, task=", counts: [3, 5]"), f"{TASK}counts: the labels of 5 patients are asked for, and source"),
        (study("sorted", task=", counts: 9"), f"{TASK}counts: the labels of 9 patients"),
        (study(own=LABELS, task=", fractions: [], counts_per_class: [1, 3]"), f"{TASK}counts_per_class: the labels of 3"),
        (study("sorted", task=", counts_per_class: 9"), f"{TASK}counts_per_class: the labels of 9 patients of each class"),
        (study("classes", own=", labels: folders", task=", counts_per_class: 9"), f"{TASK}counts_per_class: the labels of 9"),
        (study("masked", task=", task: segmentation, counts_per_class: 1"), f"{TASK[:-1]}: counts_per_class: task 'seg"),
        (study(own=LABELS, task=", options: {prior: [1, 1, 1]}"), f"{TASK}options: prior has 3 numbers, and source 'here' has 2"),
        (study("masked", task=", task: segmentation, counts: 4"), f"{TASK}counts: the labels of 4 patients"),
        (study(own=", groups: sex"), f"{SOURCE}groups: sex: subgroups are columns of a label table, and this source has none"),
        (study("classes", own=", labels: folders, groups: [sex]"), f"{SOURCE}groups: sex: subgroups are columns"),
        (study(own=", labels: people"), f"{SOURCE}labels: 'people' is text, and a table of labels is known by its name. Rename"),
        # thresholds beyond every distance
        (study(own=LABELS, top="reduce: {arms: {hash: {threshold: 700}}}\n"), f"{TOP}reduce.arms.hash.threshold: "),
        (study(own=LABELS, top="reduce: {arms: {ssim: {threshold: 2.1}}}\n"), "above 2, the largest distance that ssim"),
        (study(own=LABELS, top="reduce: {arms: {mutual_information: {threshold: 3}}}\n"), "above 1, the largest distance"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(refusal: Refusal, text: str, words: str) -> None:
    found = refusal(text)
    assert words in found, found
    assert all(line.startswith("mine.yaml:") for line in found.splitlines())


@pytest.mark.parametrize(
    "text",
    [
        study(own=LABELS, top="evaluate: {positive: dog}\n"),
        study("sorted", top="evaluate: {positive: cat}\n"),
        study(own=f"{LABELS}, class_names: {{cat: a cat}}"),
        study("organs", own=", class_names: {3: heart}"),
        study("organs", top="evaluate: {positive: '3'}\n"),  # an NPZ says its classes itself
        study(own=LABELS, task=", counts: [4]"),
        study(own=LABELS, task=", counts_per_class: [1, 2], options: {prior: [1, 3]}, modes: aligned"),
        study("classes", own=", labels: folders", task=", counts_per_class: 1"),
        study("organs", task=", counts_per_class: 99"),  # an NPZ shows its labels to the job
        study("masked", own=", labels: one.csv", task=", task: segmentation, counts: 3"),  # its masks are beside the images
        study("sorted", own=", labels: one.csv", task=", counts: 8"),  # its folders are classes too
        study(own=f"{LABELS}, groups: sex"),
        study(own=LABELS, top="reduce: {arms: {hash: {threshold: 64}}}\n"),
        study(own=LABELS, top="reduce: {arms: {hash: {threshold: 70, reducer: {hash: {size: 16}}}}}\n"),
        study(own=LABELS, top="reduce: {arms: {bits: {threshold: 3, reducer: {mutual_information: {form: bits}}}}}\n"),
        study(own=LABELS, top="output: .\n"),  # beside the images, which are not among the results
        study("./pictures", own=LABELS, top="output: new/folder\n"),
    ],
)  # fmt: skip
def test_what_lies_beside_a_mistake_is_taken(notes: Notes, text: str) -> None:
    Path("one.csv").write_text("id,label\npt_0_ct.nii.gz,a\ntrain/cat/0.png,cat\n")
    assert [note for note in notes(text) if "one.csv" not in note] == []


@pytest.mark.parametrize("closed", ["results", "."])
def test_a_folder_that_cannot_be_written_to_is_refused(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, folder: Path, closed: str
) -> None:
    """Root may write everywhere, so the system's answer is put in its mouth."""
    output = {"results": "results/a", ".": "fresh/b"}[closed]
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != (folder / closed))
    found = refusal(f"{alone('pictures')}output: {output}\n")
    assert f"mine.yaml:5: output: '{output}/mine' cannot be written to: " in found
    assert "is closed to the account that runs medssl" in found and not (folder / output).exists()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("ID,Label\n0,a\n1,b\n", "the names of columns are in small letters. Rename 'ID' to 'id' and 'Label' to 'label'"),
        ("id,label,Subject\n0.png,a,p\n1.png,b,q\n", "Rename 'Subject' to 'subject'"),
        ("id,label\n0,\n1,n/a\n", "no row has a 'label', which finetune.spots needs; the column is there, and each"),
        ("id,diagnosis\n0,a\n1,b\n", "the columns beside the id are ['diagnosis']. Name the column of the classes 'label'"),
        ("id,label\n0,Tumour\n1,tumour\n2,none\n", "the classes 'Tumour' and 'tumour' differ in their spelling alone"),
        ("id,label\n0,low  grade\n1,low grade\n", "the classes 'low  grade' and 'low grade' differ in their spelling alone"),
        ("id,label\n0,1\n1,1.0\n2,0\n", "the classes '1' and '1.0' differ in their spelling alone"),
        ("id,label\n0,a\n1,b\n2,NaN\n", "row 4 has the label 'NaN', as programs write that there is none"),
        ("id,label\n0,a\n1,b\n2,NA\n", "row 4 has the label 'NA'"),
        ("id,label,subject\n0.png,a,nan\n1.png,b,p\n", "row 2 has the subject 'nan'"),
        ("id,label\nnan,a\n1.png,b\n", "row 2 has the id 'nan'"),
        ("id,label\n" + "".join(f"{n}.png,{n / 7:.3f}\n" for n in range(11)), "the labels are 11 different numbers such as"),
    ],
)  # fmt: skip
def test_a_label_table_that_says_something_else_than_is_meant_is_refused(refusal: Refusal, table: str, words: str) -> None:
    Path("people.csv").write_text(table)
    found = refusal(study(own=LABELS))
    assert f"{SOURCE}labels: people.csv: {words}" in found or words in found, found
    assert all(line.startswith("mine.yaml:3: ") for line in found.splitlines())


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (PEOPLE, []),
        ("id,label\n0,a\n1,b\n2,a\n3,b\n7,a\n8,a\n", ["2 of 6 rows are for no file of the source (row 6: '7')"]),
        ("id,label\n0,a\n1,b\n", ["2 of 4 images have no label in it, such as '2.png'"]),
        ("id,label\n0, a\n1,b\n2,a \n3,b\n", ["2 labels have blanks around them (the first in row 2), which do not count"]),
        (
            "id,label,subject\n0.png,a,p\n1.png,b,\n2.png,a,q\n3.png,b,n/a\n",
            ["2 of 4 rows have no subject (the first is row 3); each of their images counts as a patient of its own"],
        ),
        (
            "id,label,split,subject\n0.png,a,train,p\n1.png,b,test,q\n2.png,a,test,p\n3.png,b,train,r\n",
            ["1 of 3 patients are in two parts, so that scores may be too good: 'p' is in train (row 2) and in test (row 4)"],
        ),
    ],
)
def test_what_a_label_table_leaves_open_is_counted(notes: Notes, table: str, words: list[str]) -> None:
    Path("people.csv").write_text(table)
    said = notes(study(own=LABELS))
    assert len(said) == len(words) and all(word in note for word, note in zip(words, said, strict=True)), said
    assert all(note.startswith("mine.yaml:3: sources.here.labels: people.csv: ") for note in said)


@pytest.mark.parametrize(("number", "word", "is_said"), [(30, "{}", True), (30, "{}x", True), (20, "{}", False)])
def test_labels_that_are_hardly_classes_are_reported(notes: Notes, number: int, word: str, is_said: bool) -> None:
    rows = [f"{n}.png,{word.format(n)}\n" for n in range(number)]
    for n in range(number):
        Path(f"pictures/{n}.png").write_bytes(b"x")
    Path("people.csv").write_text(f"id,label\n{''.join(rows)}")
    assert bool(notes(study(own=LABELS))) == is_said
    if is_said:
        assert f"{number} labels are of {number} classes" in notes(study(own=LABELS))[0]


def test_a_share_of_less_than_one_patient_is_reported_if_it_is_requested(notes: Notes) -> None:
    (note,) = notes(study(own=LABELS, task=", fractions: [0.01, 1]"))
    assert note.startswith(f"{TASK}fractions: 0.01 of at most 4 labelled patients or images is less than one")


def test_a_label_table_is_read_once_in_a_check(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    of = source_files.read_label_table
    monkeypatch.setattr(source_files, "read_label_table", lambda path: read.append(path) or of(path))
    assert notes(study(own=f"{LABELS}, groups: sex", task=", counts: 2", top="evaluate: {positive: dog}\n")) == []
    assert read == ["people.csv"]


@pytest.mark.parametrize("command", ["plan", "specs"])
def test_plan_and_specs_check_all_that_a_run_checks(folder: Path, command: str) -> None:
    for text, words in ((study("masked"), "has no labels"), (alone("."), "contains the results of")):
        Path("mine.yaml").write_text(text)
        with pytest.raises(StudyError, match=words):
            CliRunner().invoke(app, [command, "mine.yaml"], catch_exceptions=False)
    assert not Path("results/mine/specs").exists()


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("scnas", "scans"),
        ("people.tsv", "people.csv"),
        ("SCANS2", "scans"),
        ("medic", ""),
        ("dicom", ""),
        ("data", ""),
        ("mri", ""),
    ],
)
def test_only_a_name_that_is_near_is_suggested(folder: Path, path: str, hint: str) -> None:
    (folder / "demo").mkdir()
    assert nothing_at(path).endswith(f"Did you mean {hint!r}?" if hint else ").")
