"""A task is refused where names of files and label tables say that its source cannot have the labels, as stage ingest goes by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medssl.core.errors import StudyError
from medssl.core.label_table import read_label_table
from medssl.core.patient_names import subjects_of
from medssl.core.rng import rng
from medssl.ingest.label_files import LabelTarget, Matcher
from medssl.ingest.options import IngestOptions
from medssl.study.check_table import Table
from medssl.study.source_files import SourceFiles

Notes = Callable[..., list[str]]
Refusal = Callable[..., str]


def study(path: str, kind: str = "classification", *, labels: str | None = None, table: str | None = None, more: str = "") -> str:
    """A study of a source with a task; `table`: the text of its label table."""
    if table is not None:
        Path("labels.csv").write_text(table)
        labels = "labels.csv"
    named = f", labels: {labels}" if labels else ""
    return (
        f"sources:\n  ct: {{path: scans}}\n  here: {{path: {path}{named}{more}}}\n"
        f"pretrain:\n  simclr: {{cohort: ct, batch_size: 2}}\nfinetune:\n  spots: {{source: here, task: {kind}}}\n"
    )


@pytest.mark.parametrize(
    ("path", "kind", "labels", "words"),
    [
        ("scans", "classification", None, "has no labels"),
        ("scans", "segmentation", None, None),  # DICOM may hold SEG and RTSTRUCT
        ("organs", "classification", None, None),
        ("organs", "segmentation", None, "has no masks: it holds pictures alone"),
        ("pictures", "classification", None, "has no labels"),
        ("pictures", "segmentation", None, "has no masks"),
        ("sorted", "classification", None, None),  # the same class folders below train and test
        ("sorted/train", "classification", None, "has no labels"),  # they may be names of patients
        ("sorted/train", "classification", "folders", None),
        ("classes", "classification", "folders", None),
        ("classes/cat", "classification", "folders", "no image lies in a folder"),
        ("pictures", "classification", "folders", "no image lies in a folder: the first of 4 files is '0.png'"),
        ("organs", "classification", "folders", "an NPZ lies in no folder"),
        ("nifti", "segmentation", None, "of its 3 NIfTI, NRRD or MetaImage files none is the mask of another"),
        ("nifti", "segmentation", "masked", None),
        ("masked", "segmentation", None, None),
        ("masked", "classification", "masked", "'masked' is all there is in 'masked', and no image is left"),
        ("masked/pt_0_seg.nii.gz", "segmentation", "masked", "'masked' is all there is in"),
        ("scans", "classification", "masked", "holds masks and no classes"),
        ("scans", "segmentation", "pictures", "and no DICOM, NIfTI, NRRD or MetaImage file; expected masks"),
        ("scans", "segmentation", "pictures/0.png", "neither a table of labels (.csv, .tsv, .txt) nor a mask"),
        ("scans", "classification", "mine.yaml", "neither a table of labels"),
        ("scans", "segmentation", "masked/pt_0_seg.nii.gz", None),
    ],
)
def test_a_task_needs_labels_that_its_source_can_have(
    notes: Notes, refusal: Refusal, path: str, kind: str, labels: str | None, words: str | None
) -> None:
    Path("masked/pt_0_seg.nii.gz").write_bytes(b"\x1f\x8b")
    text = study(path, kind, labels=labels)
    if words is None:
        assert notes(text) == []
        return
    found = refusal(text)
    assert words in found and found.startswith(("mine.yaml:3: sources.here.labels: ", "mine.yaml:7: finetune.spots.source: "))
    if "all there is" not in words:
        assert notes(text, "pretrain_ct") == []  # pre-training does not need them


@pytest.mark.parametrize(
    ("path", "table", "words"),
    [
        ("pictures", "id,label\n0,a\n1.png,b\n", None),
        ("pictures", "id,label\n0,a\n1,a\n", "all labels are 'a'"),
        ("sorted", "id,label\ntrain/cat/0.png,cat\n", None),  # the folders bring dog
        ("scans", "id,label\n0,a\n1,a\n", "all labels are 'a'"),
        ("scans", "id,label\np1,a\np2,b\n", None),  # patients that headers may name
        ("pictures", "id,label\n7,a\n8,b\n", "none of its 2 rows is for a file of this source: the first id is '7'"),
        ("nifti", "id,label\n7,a\n8,b\n", "none of its 2 rows"),
        ("nifti", "id,label\npt_0,a\npt_1,b\n", None),  # patients by name
        ("nifti", "id,label\npt_0_ct,a\n./pt_1_ct.nii.gz,b\n", None),
        ("organs", "id,label\n0,a\n1,b\n", "an NPZ names no images"),
        ("organs", "id,label\ni-0123456789ab,a\ni-0123456789ac,b\n", None),
        ("pictures", "id,label\n0,a\n0.png,b\n", "rows 2 and 3 say different things of '0.png'"),
        ("pictures", "id,label\n0,a\n0.png,a\n1,b\n", None),
        ("nifti", "id,label\npt_0,a\npt_0_ct,b\n", "rows 2 and 3 say different things of 'pt_0_ct.nii.gz'"),
        ("sorted", "id,label\n0,a\n1,b\n", "row 2: '0' is the name of 4 files"),
        (
            "pictures",
            "id,label,split\n0.png,a,trian\n1.png,b,test\n",
            "row 2 has the split 'trian'; parts are train, val and test.",
        ),
        ("pictures", "id,label,split\n0.png,a,train\n1.png,b,test\n", None),
        ("pictures", "id,label,split\n0,a,trian\n1,b,test\n", "row 2 has the split 'trian'"),  # and the id is no path
        ("pictures", "id,label,split\n0,a,train\n1.png,b,test\n", "row 2: the id of a row with split is a path, got '0'"),
        ("pictures", "id,label,subject\n0,a,p\n1.png,b,q\n", "row 2: the id of a row with subject is a path, got '0'"),
        (
            "masked",
            "id,label,mask\npt_0_ct.nii.gz,a,seg.nii.gz\npt_1_ct,b,\n",
            "the mask 'seg.nii.gz' is not a NIfTI, NRRD or MetaImage file of this source",
        ),
        (
            "masked",
            "id,label,mask\npt_0_ct.nii.gz,a,pt_0_seg.nii.gz\npt_1_ct.nii.gz,b,pt_0_seg.nii.gz\n",
            "rows 2 and 3 name the mask 'pt_0_seg.nii.gz' for two images",
        ),
        ("pictures", "id,label\n0,a|b\n1,b\n", "row 2 has several classes ('a|b')"),
        ("pictures", "id,label\n0,a\n1,b\n9,a|b\n", None),  # a row for no image of this source
        ("pictures", "id,class\n0,a\n1,b\n", "no row has a 'label'"),
        ("sorted", "id,sex\ntrain/cat/0.png,f\n", None),
        ("pictures", "id,label\n", "none of its 0 rows"),
        ("pictures", "name,label\n0,a\n", "needs `id`"),
    ],
)
def test_a_label_table_fits_the_files_of_its_source(
    notes: Notes, refusal: Refusal, path: str, table: str, words: str | None
) -> None:
    text = study(path, table=table)
    if words is None:
        assert all("images have no label in it" in note or "rows are for no file" in note for note in notes(text))
    else:
        found = refusal(text)
        assert f"mine.yaml:3: sources.here.labels: labels.csv: {words}" in found or words in found
        assert "Did you mean 'train'?" in found or "trian" not in table


def test_several_classes_of_a_case_are_as_many_as_the_task_allows(notes: Notes, refusal: Refusal) -> None:
    text = study("pictures", table="id,label\n0,a|a\n1,|\n")
    assert "all labels are 'a'" in refusal(text)
    (note,) = notes(text.replace("task: classification", "options: {multilabel: true}"))
    assert "2 of 4 images have no label in it, such as '2.png'" in note


def test_columns_that_are_not_read_are_a_note(notes: Notes) -> None:
    (note,) = notes(study("scans", table="id,label,split\np1,a,train\np2,b,trian\n"))
    assert note.startswith("mine.yaml:3: sources.here.labels: labels.csv: the column split is not read here")


def test_a_patient_that_the_table_names_is_read_of_dicom_too(notes: Notes) -> None:
    assert notes(study("scans", table="id,label,subject\np1,a,one\np2,b,two\n")) == []


@pytest.mark.parametrize("groups", ["[split]", "[sex]", "[age]"])
def test_a_column_of_subgroups_holds_a_few_values(notes: Notes, refusal: Refusal, groups: str) -> None:
    rows = "".join(f"{n}.png,{'ab'[n % 2]},{'fm'[n % 2]},{n},test\n" for n in range(25))
    for n in range(25):
        Path(f"pictures/{n}.png").write_bytes(b"x")
    text = study("pictures", table=f"id,label,sex,age,split\n{rows}", more=f", groups: {groups}")
    if groups == "[sex]":
        assert notes(text) == []
    else:
        assert "different values; subgroups are made of a column" in refusal(text)


def test_the_files_of_a_row_are_those_that_ingest_finds(folder: Path) -> None:
    """Random ids: the check and the job say the same, sentence for sentence where an id has several files."""
    random = rng(0, "label ids")
    files = [f"{a}/pt_{n}_ct.nii.gz" for a in "ab" for n in range(3)] + ["a/0.png", "b/0.png", "b/1.jpeg", "c/d/2.png"]
    words = ["a", "b", "c", "c/d", "pt_0", "pt_1", "pt_9", "0", "1", "0.png", "b/1", "./a/0.png", "pt_2_ct", "a\\pt_0_ct.nii.gz"]
    options = IngestOptions()
    patients = subjects_of([file for file in files if "nii" in file])
    items = [LabelTarget(file, None, (file,), (f"p:{patients[file]}",) if file in patients else ()) for file in files]
    matcher = Matcher(items, lambda name: (f"p:{name}", f"s:{name}"))
    for word in [*words, *files, *random.permutation(words)[:3]]:
        Path("one.csv").write_text(f"id,label\n{word},x\n")
        table = Table(
            Path("one.csv"), read_label_table("one.csv"), SourceFiles([((file, 1, 1, "file"), 1) for file in files], options)
        )
        (row,) = table.rows
        found = sorted(files.index(file) for file in table.find(row))
        if len(found) > 1 and table.is_by_short_name(row):
            with pytest.raises(StudyError, match=f"name of {len(found)} images"):
                matcher.find(row["file"])
        else:
            assert np.array_equal(found, matcher.find(row["file"])), word
