"""Whether the records of sources have what objectives ask of them, as far as the tables and file names show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medssl.core.errors import StudyError, did_you_mean
from medssl.core.file_names import folder_labels
from medssl.core.label_table import FOLDERS, LabelRow, LabelTable, is_label_table, read_label_table
from medssl.core.listing import nothing_at
from medssl.core.record_table import Problem as Refused
from medssl.core.record_table import (
    RecordColumn,
    column_of,
    contradictions_in,
    gives_the_label_away,
    read_records,
    rows_against_the_label,
)
from medssl.ingest.options import IngestOptions
from medssl.pretrain.options import record_kinds_asked, records_of
from medssl.study.check_table import Table
from medssl.study.dag import Dag
from medssl.study.file import Loc
from medssl.study.options import Study
from medssl.study.reach import Reach
from medssl.study.source_files import OTHER, PICTURE, SourceFiles

Problem = tuple[Loc, str]
PLURAL = {"number": "numbers", "category": "categories"}
WIDTH = {"number": ", because its width is above 0", "category": ", because its width is 0"}
"""Why an option that gives each column a width asks for a kind."""


def record_problems(dag: Dag, listed: Mapping[str, SourceFiles], reached: Reach) -> Iterator[Problem]:
    """Problems of the records of a study. A missing table stops only the runs that need it, because it may come later."""
    study = dag.study
    for name, source in study.sources.items():
        for option, given in (("record_kinds", source.record_kinds), ("label_as_feature", source.label_as_feature)):
            if given and source.records is None:
                yield ("sources", name, option), "the source has no records. Name their table in `records`, or leave this out"
        if source.records is None:
            continue
        if Path(source.records).is_dir():
            yield ("sources", name, "records"), f"{source.records!r} is a folder. Name the table in it"
        elif not Path(source.records).is_file():
            if name in reached.recorded:
                yield ("sources", name, "records"), nothing_at(source.records)
        elif not is_label_table(source.records):
            yield ("sources", name, "records"), f"{source.records!r} is not a table by its name. Save it as .csv or .tsv"
        else:
            yield from _table_problems(dag, name, listed.get(name))
    yield from _nowhere(study)


def record_notes(dag: Dag, listed: Mapping[str, SourceFiles], reached: Reach) -> Iterator[Problem]:
    """Records that are not there yet, records that no run reads, and rows that are for no file."""
    for name, source in dag.study.sources.items():
        if source.records is None:
            continue
        loc: Loc = ("sources", name, "records")
        if not dag.columns_read(name):
            yield loc, "no objective reads these records: none of its options names a column of them"
        elif not Path(source.records).exists() and name not in reached.recorded:
            yield loc, f"{nothing_at(source.records)} Runs that read it cannot start"
        elif name in reached.recorded and name in listed:
            yield from ((loc, note) for note in _strangers(source.records, listed[name]))
            for column in _usable(dag, name):
                yield from ((loc, note) for note in _nearly_gives_away(dag.study, name, column, listed[name]))


def _usable(dag: Dag, name: str) -> list[RecordColumn]:
    """The columns that some run reads and that can be used."""
    source = dag.study.sources[name]
    rows = read_records(str(source.records))
    found = [column_of(rows, column, source.record_kinds.get(column)) for column in dag.columns_read(name)]
    return [column for column in found if isinstance(column, RecordColumn)]


def _strangers(path: str, files: SourceFiles) -> Iterator[str]:
    """The rows of a table that are for no file of the source, with the first of them."""
    rows = read_records(path)
    table = _by_name(path, rows, files)
    alone = [] if table is None else [row for row, known in zip(rows, _matches(table), strict=True) if not known]
    if alone:
        first = f"(row {alone[0].number}: {alone[0]['file']!r})"
        yield f"{path}: {len(alone)} of {len(rows)} rows are for no file of the source {first}"


def _table_problems(dag: Dag, name: str, files: SourceFiles | None) -> Iterator[Problem]:
    """Problems of the table of a source, each named with the code of its kind."""
    study, loc = dag.study, ("sources", name, "records")
    source, columns = study.sources[name], dag.columns_read(name)
    path = str(source.records)
    try:
        rows = read_records(path)
    except StudyError as error:
        yield loc, f"{path}: {str(error).removeprefix('records: ')}"
        return
    for column in source.record_kinds:
        if column not in rows.columns:
            hint = did_you_mean(column, rows.columns)
            yield ("sources", name, "record_kinds", column), f"{path} has no column {column!r}.{hint}"
    table = _by_name(path, rows, files)
    for column in columns:
        found = column_of(rows, column, source.record_kinds.get(column))
        if isinstance(found, Refused):
            yield loc, f"{path}: {found.text} ({found.code})"
            continue
        for first, second in contradictions_in(found):
            yield loc, f"{path}: rows {first} and {second} say different things of one id in {column!r}. Keep one of them"
            break
        if table is not None and (pair := _contradiction_by_file(table, found)):
            yield loc, f"{path}: rows {pair[0]} and {pair[1]} say different things of one image in {column!r}. Keep one of them"
        yield from _other_kinds(dag, name, found)
        yield from _gives_away(study, name, found, files)
    if table is not None and not any(_matches(table)):
        example = min(table.items, default=None)
        of_source = "an NPZ names no images" if example is None else f"a file of the source is {example!r}"
        ids = "An id is a path relative to the source, a file name, a folder, a patient, or an id of series.tsv or images.parquet"
        yield loc, f"{path}: none of its {len(rows)} rows is for a file of this source; {of_source}. {ids}"


def _by_name(path: str, rows: LabelTable, files: SourceFiles | None) -> Table | None:
    """The table beside the files of its source, if their names show every id."""
    table = None if files is None else Table(Path(path), rows, files)
    return table if table is not None and table.is_by_name else None


def _matches(table: Table) -> list[bool]:
    """Whether each row is for a file of the source."""
    try:
        return [bool(table.is_minted(row) or table.find(row)) for row in table.rows]
    except StudyError:
        return [True] * len(table.rows)  # of `subject_pattern`, which is checked by itself


def _contradiction_by_file(table: Table, column: RecordColumn) -> tuple[int, int] | None:
    """Row numbers of two rows with different ids that say different things of one file, as stage ingest would find them."""
    first: dict[str, tuple[int, str]] = {}
    try:
        for cell, number, text in column.cells:
            for file in table.find(LabelRow(file=cell)):
                before = first.setdefault(file, (number, text))
                if before[1] != text:
                    return before[0], number
    except StudyError:
        return None  # of `subject_pattern`, which is checked by itself
    return None


def _other_kinds(dag: Dag, name: str, column: RecordColumn) -> Iterator[Problem]:
    """Runs whose objective asks for numbers where a column holds categories, or the reverse."""
    for run in dict.fromkeys(run.name for cohort, run in dag.runs() if name in dag.study.all_cohorts[cohort]):
        options = dag.study.pretrain[run]
        for option, asked, kind in record_kinds_asked(options):
            if asked == column.name and kind not in (None, column.kind):
                holds = f"{asked!r} holds {PLURAL[column.kind]} in {dag.study.sources[name].records}, and this option"
                needs = f"needs {PLURAL[kind]}{WIDTH[kind] if isinstance(options.objective.options[option], dict) else ''}"
                change = f"Choose another column, or set sources.{name}.record_kinds: {{{asked}: {kind}}}"
                yield ("pretrain", run, "objective"), f"{options.objective.name}: {option}: {holds} {needs}. {change}"


def _gives_away(study: Study, name: str, column: RecordColumn, files: SourceFiles | None) -> Iterator[Problem]:
    """Records that determine the label of a downstream task on the same source."""
    beside = _beside_labels(study, name, column, files)
    if beside is not None and gives_the_label_away(beside.values, beside.label_of):
        why = f"{column.name!r} gives the label of finetune.{beside.task} away: its values determine the label in {beside.where}"
        allow = f"set sources.{name}.label_as_feature: true"
        path = study.sources[name].records
        yield ("sources", name, "records"), f"{path}: {why}. Take it out of the objective's options, or {allow}"


def _nearly_gives_away(study: Study, name: str, column: RecordColumn, files: SourceFiles | None) -> Iterator[str]:
    """Records that repeat the label of a downstream task in nearly all rows."""
    beside = _beside_labels(study, name, column, files)
    found = None if beside is None else rows_against_the_label(beside.values, beside.label_of)
    if beside is not None and found is not None:
        agree = f"{column.name!r} agrees with the label of finetune.{beside.task} in {found[1] - found[0]} of {found[1]} rows"
        yield f"{study.sources[name].records}: {agree} ({beside.where}). If it repeats the label, take it out"


@dataclass(frozen=True)
class _BesideLabels:
    """The values of a column by id, and the labels of a task by the same ids."""

    values: list[tuple[str, str]]
    label_of: dict[str, str]
    task: str
    where: str


def _beside_labels(study: Study, name: str, column: RecordColumn, files: SourceFiles | None) -> _BesideLabels | None:
    """A column beside the labels of a task on the same source, if it may not be one of them and the tables are there."""
    source = study.sources[name]
    tasks = [task for task, options in study.finetune.items() if options.source == name]
    if source.label_as_feature or not tasks:
        return None
    given = source.labels or FOLDERS
    try:
        if is_label_table(given) and Path(given).is_file():
            labels = Table(Path(given), read_label_table(given), files or SourceFiles([], IngestOptions()))
            known = {key: row["label"] for row in labels.rows if "label" in row for key in _keys(labels, row["file"])}
        elif given == FOLDERS and files is not None:
            labels = Table(Path(str(source.records)), read_records(str(source.records)), files)
            known = _by_folder(files, asked=source.labels is not None)
        else:
            return None
        values = [(key, text) for cell, _, text in column.cells for key in _keys(labels, cell)]
    except StudyError:
        return None  # a problem of the labels, or of `subject_pattern`
    return _BesideLabels(values, known, tasks[0], "the folders of its images" if given == FOLDERS else given)


def _by_folder(files: SourceFiles, *, asked: bool) -> dict[str, str]:
    """The class folder of each picture; of folders that are not `asked` for as labels, only class folders below parts."""
    pictures = files.named(PICTURE, OTHER)
    if asked:
        return {name: PurePosixPath(name).parent.name for name in pictures}
    return {name: label for name, (label, _) in folder_labels(pictures).items()}


def _keys(table: Table, name: str) -> list[str]:
    """The files that an id means, or the id itself where file names do not show them."""
    return table.find(LabelRow(file=name)) or [name]


def _nowhere(study: Study) -> Iterator[Problem]:
    """Columns that an objective reads and no source of its cohort has."""
    for name, run in study.pretrain.items():
        sources = study.all_cohorts.get(study.cohort_of(run), [])
        given = [source for source in sources if source in study.sources and study.sources[source].records]
        columns = records_of(run)
        if columns and not given:
            table = f"sources.{sources[0] if sources else '<name>'}.records"
            why = f"reads the records {', '.join(columns)}, and no source of its cohort has records"
            yield ("pretrain", name, "objective"), f"{run.objective.name} {why}. Name their table in {table}, or leave them out"
