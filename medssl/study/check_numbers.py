"""Checks the labels as numbers: values and times that are numbers, events, enough of them, and one label per patient; and batches
in which times are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.core.label_numbers import FEWEST_EVENTS, HAPPENED, number_of, why_no_event, why_no_number, why_no_time
from medssl.core.label_table import EVENT, FOLDERS, ID_COLUMNS, LabelRow, is_label_table
from medssl.core.options import PluginChoice
from medssl.finetune.options import FinetuneOptions
from medssl.study.check_table import Table
from medssl.study.file import Loc
from medssl.study.source_files import NPZ, SourceFiles

Problem = tuple[Loc, str]
MOST_SAID = 5
"""How many rows with one mistake are named."""


def number_problems(
    source: str, labels: str | None, files: SourceFiles, table: Table | None, tasks: dict[str, FinetuneOptions], *, timed: bool
) -> Iterator[Problem]:
    """Why labels cannot be values, or with `timed` times and events, of some tasks.

    A row for none of the files is left alone if file names show that.
    """
    loc: Loc = ("sources", source, "labels")
    what = f"a time as label and a column {EVENT!r} (1: it happened, 0: censored)" if timed else "a number as label"
    for task, options in tasks.items():
        named = f"finetune.{task} ({options.task})"
        if labels == FOLDERS or (labels is not None and Path(labels).exists() and not is_label_table(labels)):
            holds = "are classes" if labels == FOLDERS else "are masks"
            yield loc, f"{labels!r}: these labels {holds}, and {named} needs {what}. Name a table, or take another task"
        elif labels is None and (timed or NPZ not in files.kinds):
            yield ("finetune", task, "source"), f"source {source!r} has no table of labels, and {named} needs {what}. Name one"
        elif table is not None and (rows := [row for row in table.rows if "label" in row and _is_here(table, row)]):
            yield from ((loc, f"{labels}: {text}") for text in _wrong_rows(rows, named, table, timed=timed))
            yield from ((("finetune", task, "options"), text) for text in _two_labels(table, rows, options, task, timed=timed))
        elif table is not None and (without := _no_label(table)):
            columns = [name for name in table.rows.columns if name not in ID_COLUMNS]
            yield loc, f"{labels}: {without} has a 'label', which {named} needs; the columns beside the id are {columns}"


def batch_problems(tasks: Mapping[str, FinetuneOptions]) -> Iterator[Problem]:
    """Tasks whose loss compares the cases of a batch, which is of one case."""
    for task, options in tasks.items():
        if (modes := _comparing(options)) and options.batch_size == 1:
            yield (
                ("finetune", task, "batch_size"),
                f"1: the loss of mode {modes} compares the cases of a batch with each other, so one case alone has no gradient. "
                "Set 32 or more",
            )


def batch_notes(tasks: Mapping[str, FinetuneOptions]) -> Iterator[Problem]:
    """Tasks whose loss compares the cases of a batch, which are few."""
    for task, options in tasks.items():
        small, why = plugins.find("task", options.task).constant("SMALL_BATCH", default=(0, ""))
        if (modes := _comparing(options)) and options.batch_size < small:
            text = f"a step of mode {modes} sees {options.batch_size} cases, fewer than {small}: {why}"
            yield ("finetune", task, "batch_size"), text


def _comparing(options: FinetuneOptions) -> str:
    """The modes of a task whose loss compares the cases of a batch, in words."""
    comparing = plugins.find("task", options.task).constant("COMPARES_IN_BATCH", default=[])
    return " and ".join(repr(mode) for mode in options.modes if mode in comparing)


def event_notes(table: Table, tasks: Mapping[str, FinetuneOptions]) -> Iterator[Problem]:
    """Tasks of values on a table that says of some labels that the event had not happened yet."""
    rows = [row for row in table.rows if "label" in row and EVENT in row and _is_here(table, row)]
    num_censored = sum(not HAPPENED.get(row[EVENT], True) for row in rows)
    for task, options in tasks.items() if num_censored else ():
        yield (
            ("finetune", task, "task"),
            f"{table.path} has the column {EVENT!r}, by which {num_censored} of {len(rows)} labels are censored times, and "
            f"finetune.{task} ({options.task}) takes them for true values. If labels are times, set task: survival",
        )


def horizon_notes(table: Table, metrics: Sequence[PluginChoice] | None) -> Iterator[Problem]:
    """Times at which a metric is asked of risks, but until which no case of the table has its event, or beyond which none is
    followed.
    """
    rows = [row for row in table.rows if "label" in row and EVENT in row and _is_here(table, row)]
    followed = [(time, HAPPENED.get(row[EVENT])) for row in rows if (time := number_of(row["label"])) is not None]
    if not followed:
        return
    first = min((time for time, happened in followed if happened), default=0.0)
    longest = max(time for time, _ in followed)
    for metric in metrics or ():
        horizons = metric.options.get("horizons", ())
        if early := [time for time in horizons if not isinstance(time, str) and time < first]:
            yield (
                ("evaluate", "metrics"),
                f"{metric.name} is undefined at {early[0]:g}: no case of {table.path} has its event before {first:g}. Choose "
                "horizons in the unit of the labels, after the first events",
            )
        if beyond := [time for time in horizons if _is_beyond(time, longest)]:
            yield (
                ("evaluate", "metrics"),
                f"{metric.name} is undefined at {beyond[0]:g}: no case of {table.path} is followed for longer than {longest:g}. "
                "Choose horizons within the follow-up",
            )


def _is_beyond(time: float | str, longest: float) -> bool:
    return not isinstance(time, str) and time >= longest


def _no_label(table: Table) -> str | None:
    """Which rows lack a label, if all of the source's rows do; None if no row is of the source, which is another problem."""
    if not any("label" in row for row in table.rows):
        return "no row"
    return "no row of a file of this source" if any(_is_here(table, row) for row in table.rows) else None


def _is_here(table: Table, row: LabelRow) -> bool:
    try:
        return not table.is_by_name or table.is_minted(row) or bool(table.find(row))
    except StudyError:
        return True  # of `subject_pattern`, which is checked by itself


def _wrong_rows(rows: Sequence[LabelRow], named: str, table: Table, *, timed: bool) -> Iterator[str]:
    wrong = [(row.number, why) for row in rows if (why := (why_no_time if timed else why_no_number)(row["label"]))]
    if timed and EVENT not in table.rows.columns:
        near = [name for name in table.rows.columns if name.lower() == EVENT]
        hint = f". Rename {near[0]!r}" if near else ""
        yield f"there is no column {EVENT!r}, which {named} needs: 1 if the event happened, 0 if the case was censored{hint}"
    elif timed:
        wrong += [(row.number, why) for row in rows if (why := why_no_event(row.get(EVENT)))]
    more = f" ({len(wrong)} rows are wrong)" if len(wrong) > MOST_SAID else ""
    yield from (f"row {number}: {why}; this is for {named}{more}" for number, why in sorted(wrong)[:MOST_SAID])
    if wrong:
        return
    if not timed and len({number_of(row["label"]) for row in rows}) == 1:
        yield f"all {len(rows)} labels are {rows[0]['label']}, so {named} has nothing to learn. Name labels that differ"
    if timed and EVENT in table.rows.columns:
        happened = sum(HAPPENED[row[EVENT]] for row in rows)
        if happened == len(rows) and len({number_of(row["label"]) for row in rows}) == 1:
            yield (
                f"all {len(rows)} cases have their event at {rows[0]['label']}, so {named} has no order of times to predict. "
                "Name times that differ"
            )
        if happened < 2 * FEWEST_EVENTS and not _is_of_patients(table, rows):
            said = "all of them censored" if happened == 0 else f"with an event in {happened}"
            yield (
                f"{len(rows)} rows, {said}; {named} needs {FEWEST_EVENTS} events or more in training and in test. Follow the "
                "cases for longer, or add some"
            )


def _is_of_patients(table: Table, rows: Sequence[LabelRow]) -> bool:
    """Whether a row may stand for several cases."""
    return not table.is_by_name or any(len(table.find(row)) > 1 for row in rows)


def _two_labels(table: Table, rows: Sequence[LabelRow], options: FinetuneOptions, task: str, *, timed: bool) -> Iterator[str]:
    """A patient with two labels, where predictions are of patients."""
    if options.options.get("aggregate") != "unit" or not table.is_by_name:
        return
    columns = ("label", EVENT) if timed else ("label",)
    label_of = {file: tuple(row.get(name) for name in columns) for row in rows for file in table.find(row)}
    torn = {
        subject: found
        for subject, of_one in sorted(table.subjects.items())
        if len(found := list(dict.fromkeys(label_of[file] for file in of_one if file in label_of))) > 1
    }
    if torn:
        subject, found = next(iter(torn.items()))
        both = " and ".join("/".join(map(str, label)) for label in found[:2])
        yield (
            f"finetune.{task}.options.aggregate is unit, and patients have more than one label ({len(torn)}, such as {subject!r} "
            f"with {both}). Give each patient one, or set aggregate to case"
        )
