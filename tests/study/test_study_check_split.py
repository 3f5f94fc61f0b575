"""A split without patients for training or testing is refused if the file names show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Notes = Callable[..., list[str]]
Refusal = Callable[..., str]


def study(path: str, split: str = "", *, labels: str = "", kind: str = "classification", ingest: str = "") -> str:
    """A study of a source that is split somehow, with a task."""
    own = f", prepare: {{split: {{{split}}}}}" if split else ""
    more = (f", labels: {labels}" if labels else "") + (f", ingest: {{{ingest}}}" if ingest else "")
    return (
        f"sources:\n  ct: {{path: scans}}\n  here: {{path: {path}{more}{own}}}\n"
        f"pretrain:\n  simclr: {{cohort: ct, batch_size: 2}}\nfinetune:\n  spots: {{source: here, task: {kind}}}\n"
    )


@pytest.mark.parametrize(
    ("path", "split", "words"),
    [
        ("classes", "", None),
        ("classes", "test_frac: 0", "finetune.spots is tested on source 'here', and test_frac 0 leaves no patient"),
        ("classes", "test_frac: 0, folds: 2", None),
        ("classes", "file: mine.tsv", None),
        ("sorted", "test_frac: 0", None),  # its own test part
        ("organs", "test_frac: 0", None),  # an NPZ may have one
        ("halved", "", "whose own split has the parts train, val alone; expected a test part"),
        ("halved", "folds: 2", None),
        ("classes", "file: untested.tsv", "puts no patient into the test part"),
        ("classes", "file: untrained.tsv", "puts no patient into the train part"),
    ],
)
def test_a_task_needs_patients_to_test_on(
    folder: Path, notes: Notes, refusal: Refusal, path: str, split: str, words: str | None
) -> None:
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            (folder / "halved" / part / label).mkdir(parents=True)
            (folder / "halved" / part / label / "0.png").write_bytes(b"x")
    for name, parts in (("mine", ("train", "test")), ("untested", ("train", "val")), ("untrained", ("val", "test"))):
        (folder / f"{name}.tsv").write_text("id\tsplit\n" + "".join(f"p-{n:012x}\t{part}\n" for n, part in enumerate(parts)))
    text = study(path, split, labels="folders" if path == "classes" else "")
    if words is None:
        assert [note for note in notes(text) if "chooses" not in note] == []
    else:
        assert words in refusal(text) and refusal(text).startswith("mine.yaml:") and notes(text, "pretrain_ct") == []


@pytest.mark.parametrize("order", [True, False])
def test_a_task_with_listed_labels_needs_a_list(folder: Path, notes: Notes, refusal: Refusal, order: bool) -> None:
    rows = [f"p-{n:012x}\t{part}" + (f"\t{9 - n}" if order else "") + "\n" for n, part in enumerate(("train", "train", "test"))]
    (folder / "mine.tsv").write_text("id\tsplit" + ("\torder" if order else "") + "\n" + "".join(rows))
    text = study("classes", "file: mine.tsv", labels="folders")
    text = text.replace("task: classification", "label_order: listed, counts: [2]")
    if order:
        assert [note for note in notes(text) if "chooses" not in note] == []
    else:
        assert "finetune.spots.label_order: listed, and the split of source 'here' lists no order" in refusal(text)


@pytest.mark.parametrize(("table", "right"), [("train,train,test,test", True), ("train,train,val,val", False)])
def test_a_label_table_of_pictures_may_name_the_test_part(
    folder: Path, notes: Notes, refusal: Refusal, table: str, right: bool
) -> None:
    rows = "".join(f"{n}.png,{'ab'[n % 2]},{part}\n" for n, part in enumerate(table.split(",")))
    (folder / "labels.csv").write_text(f"id,label,split\n{rows}")
    text = study("pictures", "test_frac: 0", labels="labels.csv")
    assert notes(text) == [] if right else "parts train, val alone" in refusal(text)


@pytest.mark.parametrize(
    ("path", "folds", "most"),
    [("pictures", 4, None), ("pictures", 5, 4), ("scans", 5, 4), ("nifti", 4, 3), ("nifti", 3, None), ("organs", 50, None)],
)
def test_more_folds_than_patients_are_refused(notes: Notes, refusal: Refusal, path: str, folds: int, most: int | None) -> None:
    text = study(path, f"folds: {folds}").partition("finetune")[0]
    if most is None:
        assert notes(text) == []
    else:
        found = refusal(text)
        assert f"{folds} folds of source 'here', which has {most} patients or images at most" in found
        assert found.startswith("mine.yaml:3: sources.here.prepare.split.folds: ")


def test_patients_of_a_label_table_are_those_that_folds_part(folder: Path, notes: Notes, refusal: Refusal) -> None:
    (folder / "labels.csv").write_text("id,label,subject\n0.png,a,p\n1.png,b,p\n2.png,a,q\n3.png,b,q\n")
    assert "at most 1 of the patients" in str(notes(study("pictures", "folds: 2", labels="labels.csv")))
    assert "which has 2 patients" in refusal(study("pictures", "folds: 3", labels="labels.csv"))


@pytest.mark.parametrize(
    ("images", "split", "said"),
    [
        (
            20,
            "folds: 2",
            "at most 10 of the patients or images of source 'here' are outside a fold, and val_frac 0.1 of them is 1: one",
        ),
        (
            4,
            "folds: 2",
            "at most 2 of the patients or images of source 'here' are outside a fold, and val_frac 0.1 of them is 0: none",
        ),
        (20, "folds: 2, val_frac: 0.3", None),
        (20, "folds: 2, val_frac: 0", None),
        (4, "", None),  # stage prepare says so of parts
    ],
)
def test_a_validation_part_of_one_patient_or_none_outside_a_fold_is_a_note(
    folder: Path, notes: Notes, images: int, split: str, said: str | None
) -> None:
    for number in range(4, images):
        (folder / "pictures" / f"{number}.png").write_bytes(b"x")
    (folder / "labels.csv").write_text("id,label\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(images)))
    text = study("pictures", split, labels="labels.csv")
    found = notes(text)
    if said is None:
        assert found == []
    else:
        (note,) = found
        assert (
            note.startswith("mine.yaml:3: sources.here.prepare.split.folds: ")
            and said in note
            and note.endswith("A larger val_frac leaves more.")
        )
    assert notes(text, "pretrain_ct") == []


def test_a_pattern_for_patients_fits_every_scan(notes: Notes, refusal: Refusal) -> None:
    assert notes(study("masked", kind="segmentation", ingest="subject_pattern: '(pt_[0-9])'")) == []
    found = refusal(study("masked", kind="segmentation", ingest="subject_pattern: '(case[0-9])'"))
    assert found.startswith("mine.yaml:3: sources.here.ingest.subject_pattern: ") and "must match every image" in found


def test_folds_of_all_that_a_run_learns_from_are_refused_with_run_source_and_option(notes: Notes, refusal: Refusal) -> None:
    text = study("classes", labels="folders").replace("{path: scans}", "{path: scans, prepare: {split: {folds: 2}}}")
    found = refusal(text)
    for word in ("mine.yaml:5: ", "run 'simclr'", "source 'ct'", "sources.ct.prepare.split.folds"):
        assert word in found, found
    whole = refusal("prepare: {split: {folds: 2}}\nsources: {ct: {path: scans}}\n")
    assert "run 'simclr'" in whole and "source 'ct'" in whole and "(prepare.split.folds)" in whole


def test_folds_of_a_part_of_what_a_run_learns_from_are_a_note(notes: Notes) -> None:
    text = study("pictures", "folds: 2").partition("finetune")[0].replace("cohort: ct", "cohort: both")
    text += "cohorts: {both: [ct, here]}\n"
    (note,) = notes(text)
    assert (
        note.startswith("mine.yaml:3: sources.here.prepare.split.folds: ") and "pretrain.simclr sees none of its patients" in note
    )
    assert notes(text, "results/mine/2_prepare/here/samples.parquet") == []
