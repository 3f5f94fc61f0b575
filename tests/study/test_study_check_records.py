"""Records are checked before work; a table that comes later stops only the runs that read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Notes = Callable[..., list[str]]
Refusal = Callable[..., str]
AGES = "id,age,sex,cdr\n" + "".join(f"{n}.png,{60 + n},{'FM'[n % 2]},{n % 2}\n" for n in range(4))


def study(options: str = "near_records: {age: 5}", *, table: str | None = AGES, more: str = "", tasks: str = "") -> str:
    if table is not None:
        Path("records.csv").write_text(table)
    return (
        f"sources:\n  ct: {{path: pictures, records: records.csv{more}}}\n  other: {{path: scans}}\n"
        f"pretrain:\n  plain: {{cohort: other, batch_size: 2}}\n"
        f"  guided: {{cohort: ct, batch_size: 2, objective: {{guided_contrast: {{{options}}}}}}}\n{tasks}"
    )


def test_records_that_hold_what_is_asked_pass(notes: Notes) -> None:
    assert notes(study()) == []
    assert notes(study("near_records: {age: 5}, spurious: [sex]")) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"options": "near_records: {agee: 5}"}, "there is no column 'agee'; the records are age, sex, cdr. Did you mean 'age'?"),
        ({"options": "spurious: [label]", "table": "id,label\n0.png,a\n1.png,b\n"}, "(not_a_record)"),
        ({"table": "id,age\n0.png,60\n1.png,\n2.png,60\n"}, "are equal. Leave it out (one_value)"),
        ({"table": "id,age\n0.png,\n1.png,\n"}, "(no_value)"),
        ({"table": "id,age\n0.png,60\n1.png,61\n0.png,62\n"}, "rows 2 and 4 say different things of one id in 'age'"),
        ({"table": "id,age\n0.png,60\n1.png,61\n0,62\n"}, "rows 2 and 4 say different things of one image in 'age'"),
        (
            {"table": "id,age\nx.png,60\ny.png,61\n"},
            "none of its 2 rows is for a file of this source; a file of the source is '0.png'",
        ),
        ({"table": "name,age\n0.png,60\n"}, "it needs `id` (or `file`, a path relative to the source) and others"),
        ({"more": ", record_kinds: {agee: number}"}, "has no column 'agee'. Did you mean 'age'?"),
        ({"table": None}, "there is nothing at 'records.csv'"),
    ],
)
def test_mistakes_of_records_are_found_before_work(refusal: Refusal, given: dict[str, str], words: str) -> None:
    assert words in refusal(study(**given))


def test_a_folder_is_not_a_table_of_records(refusal: Refusal) -> None:
    assert "sources.ct.records: 'pictures' is a folder. Name the table in it" in refusal(
        study().replace("records.csv", "pictures")
    )


def test_a_table_that_comes_later_stops_only_the_runs_that_read_it(notes: Notes) -> None:
    (note,) = notes(study(table=None), "pretrain_other")
    assert "sources.ct.records" in note and "Runs that read it cannot start" in note


def test_records_without_a_reader_and_readers_without_records_are_reported(notes: Notes, refusal: Refusal) -> None:
    assert any("no objective reads these records" in note for note in notes(study("hardness: 0.5")))
    without = study().replace(", records: records.csv", "")
    assert "pretrain.guided.objective: guided_contrast reads the records age, and no source of its cohort" in refusal(without)
    assert "the source has no records" in refusal(
        study(more=", record_kinds: {age: number}").replace(" records: records.csv,", "")
    )


def test_a_table_inside_its_source_is_not_an_image(notes: Notes) -> None:
    text = study().replace("records.csv", "pictures/records.csv")
    Path("pictures/records.csv").write_text(AGES)
    assert notes(text) == []
    from medssl.ingest.options import IngestOptions
    from medssl.study.source_files import SourceFiles

    with_it = SourceFiles.of("ct", "pictures", None, IngestOptions())
    without = SourceFiles.of("ct", "pictures", None, IngestOptions(), records="pictures/records.csv")
    assert set(with_it.names) - set(without.names) == {"records.csv"}


def test_records_that_give_the_label_away_are_refused_unless_allowed(notes: Notes, refusal: Refusal) -> None:
    names = [f"{n}.png" for n in range(12)]
    for name in names:
        Path("pictures", name).write_bytes(b"x")
    Path("labels.csv").write_text(
        "id,label\n" + "".join(f"pictures/{n}.png,{['no', 'yes'][n % 2]}\n" for n in range(12)).replace("pictures/", "")
    )
    table = "id,age,cdr\n" + "".join(f"{n},{60 + n // 2},{n % 2}\n" for n in range(12))  # by bare names: the same files
    tasks = "finetune:\n  ill: {source: ct, modes: [linear]}\n"
    given = {"table": table, "tasks": tasks}
    assert notes(study(more=", labels: labels.csv", **given)) == []
    text = refusal(study("near_records: {cdr: 1}", more=", labels: labels.csv", **given))
    assert "'cdr' gives the label of finetune.ill away" in text and "label_as_feature: true" in text
    assert notes(study("near_records: {cdr: 1}", more=", labels: labels.csv, label_as_feature: true", **given)) == []


def test_records_that_nearly_repeat_the_label_are_reported(notes: Notes) -> None:
    names = [f"{n}.png" for n in range(40)]
    for name in names:
        Path("pictures", name).write_bytes(b"x")
    Path("labels.csv").write_text("id,label\n" + "".join(f"{name},{['no', 'yes'][n % 2]}\n" for n, name in enumerate(names)))
    table = "id,cdr\n" + "".join(f"{name},{n % 2 if n else 1}\n" for n, name in enumerate(names))
    tasks = "finetune:\n  ill: {source: ct, modes: [linear]}\n"
    (note,) = notes(study("near_records: {cdr: 1}", table=table, more=", labels: labels.csv", tasks=tasks))
    assert "'cdr' agrees with the label of finetune.ill in 39 of 40 rows (labels.csv)" in note


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (
            "guided_contrast: {near_records: {sex: 5}}",
            "near_records: 'sex' holds categories in records.csv, and this option needs",
        ),
        ("guided_contrast: {near_records: {age: 0}}", "needs categories, because its width is 0"),
        (
            "hydra: {records: [age]}",
            "hydra: records: 'age' holds numbers in records.csv, and this option needs categories. Choose",
        ),
    ],
)
def test_a_column_of_another_kind_than_its_option_needs_is_refused(refusal: Refusal, objective: str, words: str) -> None:
    text = study().replace("guided_contrast: {near_records: {age: 5}}", objective)
    found = refusal(text)
    assert words in found and "pretrain.guided.objective" in found and "record_kinds: {" in found


@pytest.mark.parametrize("asked", [", labels: folders", ""])
def test_records_that_repeat_the_class_folders_are_refused(asked: str, refusal: Refusal) -> None:
    names = [f"{part}/{label}/{n}.png" for part in ("train", "test") for label in ("cat", "dog") for n in range(3, 6)]
    for name in names:
        Path("sorted", name).write_bytes(b"x")
    table = "id,sort\n" + "".join(f"{name},{'ab'['dog' in name]}\n" for name in names)
    tasks = "finetune:\n  ill: {source: ct, modes: [linear]}\n"
    text = study("spurious: [sort]", table=table, more=asked, tasks=tasks).replace("path: pictures", "path: sorted")
    assert "'sort' gives the label of finetune.ill away: its values determine the label in the folders" in refusal(text)


def test_rows_for_no_file_of_the_source_are_counted(notes: Notes) -> None:
    (note,) = notes(study(table=AGES + "x.png,70,F,0\ny.png,71,M,0\n"))
    assert "2 of 6 rows are for no file of the source (row 6: 'x.png')" in note
