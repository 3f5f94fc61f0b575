"""Whether the records of sources have what objectives ask of them, as far as the tables and file names show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from medssl.core.errors import StudyError, did_you_mean
from medssl.core.label_table import LabelRow, is_label_table, read_label_table
from medssl.core.listing import nothing_at
from medssl.core.record_table import Problem as Refused
from medssl.core.record_table import RecordColumn, column_of, contradictions_in, gives_the_label_away, read_records
from medssl.ingest.options import IngestOptions
from medssl.pretrain.options import records_of
from medssl.study.check_table import Table
from medssl.study.dag import Dag
from medssl.study.file import Loc
from medssl.study.options import Study
from medssl.study.reach import Reach
from medssl.study.source_files import SourceFiles

Problem = tuple[Loc, str]


def record_problems(dag: Dag, listed: Mapping[str, SourceFiles], reached: Reach) -> Iterator[Problem]:
    """Problems of the records of a study. A missing table stops only the runs that need it, because it may come later."""
    study = dag.study
    for name, source in study.sources.items():
        for option, given in (("record_kinds", source.record_kinds), ("label_as_feature", source.label_as_feature)):
            if given and source.records is None:
                yield ("sources", name, option), "the source has no records. Name their table in `records`, or leave this out"
        if source.records is None:
            continue
        if not Path(source.records).is_file():
            if name in reached.recorded:
                yield ("sources", name, "records"), nothing_at(source.records)
        elif not is_label_table(source.records):
            yield ("sources", name, "records"), f"{source.records!r} is not a table by its name. Save it as .csv or .tsv"
        else:
            yield from _table_problems(study, name, dag.columns_read(name), listed.get(name))
    yield from _nowhere(study)


def record_notes(dag: Dag, reached: Reach) -> Iterator[Problem]:
    """Records that are not there yet, and records that no run reads."""
    for name, source in dag.study.sources.items():
        if source.records is None:
            continue
        loc: Loc = ("sources", name, "records")
        if not dag.columns_read(name):
            yield loc, "no objective reads these records: none of its options names a column of them"
        elif not Path(source.records).exists() and name not in reached.recorded:
            yield loc, f"{nothing_at(source.records)} Runs that read it cannot start"


def _table_problems(study: Study, name: str, columns: list[str], files: SourceFiles | None) -> Iterator[Problem]:
    """Problems of the table of a source, each named with the code of its kind."""
    source, loc = study.sources[name], ("sources", name, "records")
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
    for column in columns:
        found = column_of(rows, column, source.record_kinds.get(column))
        if isinstance(found, Refused):
            yield loc, f"{path}: {found.text} ({found.code})"
            continue
        for first, second in contradictions_in(found):
            yield loc, f"{path}: rows {first} and {second} say different things of one id in {column!r}. Keep one of them"
            break
        yield from _gives_away(study, name, found, files)
    if files is not None and (table := Table(Path(path), rows, files)).is_by_name and not _some_match(table):
        example = min(table.items, default=None)
        of_source = "an NPZ names no images" if example is None else f"a file of the source is {example!r}"
        ids = "An id is a path relative to the source, a file name, a folder, a patient, or an id of series.tsv or images.parquet"
        yield loc, f"{path}: none of its {len(rows)} rows is for a file of this source; {of_source}. {ids}"


def _some_match(table: Table) -> bool:
    try:
        return any(table.is_minted(row) or table.find(row) for row in table.rows)
    except StudyError:
        return True  # of `subject_pattern`, which is checked by itself


def _gives_away(study: Study, name: str, column: RecordColumn, files: SourceFiles | None) -> Iterator[Problem]:
    """Records that determine the label of a downstream task on the same source."""
    source = study.sources[name]
    tasks = [task for task, options in study.finetune.items() if options.source == name]
    if source.label_as_feature or not tasks or source.labels is None:
        return
    if not is_label_table(source.labels) or not Path(source.labels).is_file():
        return
    try:
        labels = Table(Path(source.labels), read_label_table(source.labels), files or SourceFiles([], IngestOptions()))
        known = {key: row["label"] for row in labels.rows if "label" in row for key in _keys(labels, row["file"])}
        values = [(key, text) for cell, _, text in column.cells for key in _keys(labels, cell)]
    except StudyError:
        return  # a problem of the labels, or of `subject_pattern`
    if gives_the_label_away(values, known):
        why = f"{column.name!r} gives the label of finetune.{tasks[0]} away: each of its values has one label in {source.labels}"
        allow = f"set sources.{name}.label_as_feature: true"
        yield ("sources", name, "records"), f"{source.records}: {why}. Take it out of the objective's options, or {allow}"


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
