"""Whether a source has the labels that its tasks need, as far as file names and label tables show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medssl.core import plugins
from medssl.core.errors import StudyError, ended
from medssl.core.file_names import folder_labels
from medssl.core.label_table import FOLDERS, ID_COLUMNS, MANY, classes_of, is_label_table
from medssl.core.listing import nothing_at
from medssl.finetune.options import FinetuneOptions
from medssl.study.check_classes import (
    labelled_at_most,
    many_classes,
    short_classes,
    too_few,
    too_many,
    units_by_class,
    wrong_classes,
)
from medssl.study.check_numbers import batch_notes, batch_problems, event_notes, horizon_notes, number_problems
from medssl.study.check_table import Table, table_notes, table_problems
from medssl.study.file import Loc
from medssl.study.options import Study
from medssl.study.source_files import GRID, NPZ, OTHER, PICTURE, SourceFiles, kind_of

Problem = tuple[Loc, str]
NUMBERS = ("values", "risks")
"""Kinds of predictions whose labels are numbers."""
NO_MASKS = (PICTURE, NPZ)
"""Kinds of images without masks."""
MAGIC = ((128, b"DICM"), (0, b"\x1f\x8b"), (0, b"\x5c\x01\0\0"), (0, b"\0\0\x01\x5c"), (0, b"\x1c\x02\0\0"), (0, b"\0\0\x02\x1c"))
"""Bytes that DICOM and NIfTI files have at a fixed offset."""


@dataclass(frozen=True)
class Labelled:
    """A source, its files, the requested tasks on it, and whether its label files are requested."""

    study: Study
    source: str
    files: SourceFiles
    tasks: Mapping[str, FinetuneOptions]
    wanted: bool

    @property
    def labels(self) -> str | None:
        """As the study file has them."""
        return self.study.sources[self.source].labels

    @cached_property
    def table(self) -> Table | None:
        """Its label table, read once; None if it has none.

        Raises:
            StudyError: it cannot be read.
        """
        return None if self.files.table is None else Table(Path(str(self.labels)), self.files.table, self.files)

    @property
    def loc(self) -> Loc:
        """Where it has them."""
        return ("sources", self.source, "labels")

    def predicting(self, what: str) -> dict[str, FinetuneOptions]:
        """The tasks that predict `classes`, `values`, `risks` or `masks`."""
        return {name: task for name, task in self.tasks.items() if predicts(task, what)}


def predicts(task: FinetuneOptions, what: str) -> bool:
    """Whether a task predicts `classes`, `values`, `risks` or `masks`."""
    return bool(plugins.find("task", task.task).constant("PREDICTS") == what)


def label_problems(given: Labelled) -> Iterator[Problem]:
    """Problems of the labels of a source. Missing label files stop only the work that needs them, because they may come later."""
    labels = given.labels
    table: Table | None = None
    yield from batch_problems(given.tasks)
    groups = given.study.sources[given.source].groups
    if groups and (labels in (None, FOLDERS) or not is_label_table(str(labels))):
        text = f"{', '.join(groups)}: subgroups are columns of a label table, and this source has none. Name one in labels"
        yield ("sources", given.source, "groups"), text
    if labels == FOLDERS:
        if given.wanted:
            yield from ((given.loc, text) for text in _folder_problems(given))
    elif labels is not None:
        if not Path(labels).exists():
            if given.wanted:
                yield given.loc, nothing_at(labels)
            return
        try:
            table = given.table
        except StudyError as error:
            yield given.loc, f"{labels}: {error}"
            return
        if table:
            yield from ((given.loc, text) for text in table_problems(table, groups))
        elif text := _no_masks_at(Path(labels)):
            if given.wanted:
                yield given.loc, text
            return
    yield from _class_problems(given, table)
    yield from _mask_problems(given, table)
    for what in NUMBERS:
        tasks = given.predicting(what)
        yield from number_problems(given.source, labels, given.files, table, tasks, timed=what == "risks")
    for task, options in given.tasks.items() if table or labels in (None, FOLDERS) else ():
        yield from too_many(task, options, labelled_at_most(given.files, table, classes=not predicts(options, "masks")))
        yield from short_classes(task, options, units_by_class(given.files, table, folders=labels == FOLDERS))


def label_notes(given: Labelled) -> Iterator[Problem]:
    """Notes on the labels of a source without a problem."""
    labels = given.labels
    yield from batch_notes(given.tasks)
    if labels in (None, FOLDERS):
        return
    if not Path(str(labels)).exists():
        yield given.loc, f"{ended(nothing_at(str(labels)))} Pre-training does not need it; fine-tuning will"
    elif table := given.table:
        yield from ((given.loc, text) for text in table_notes(table))
        if given.predicting("classes") and (text := many_classes(_table_classes(table), len(table.rows))):
            yield given.loc, f"{labels}: {text}"
        if given.predicting("risks"):
            yield from horizon_notes(table, given.study.evaluate.metrics)
        yield from event_notes(table, given.predicting("values"))
        for task, options in given.tasks.items():
            yield from too_few(task, options, labelled_at_most(given.files, table, classes=not predicts(options, "masks")))


def known_classes(given: Labelled) -> set[str] | None:
    """The classes in the labels of a source and in the source itself; None if not known yet."""
    own = own_classes(given.files)
    if given.labels == FOLDERS:
        own = None if own is None else own | _folder_classes(given.files)
    elif given.labels is not None:
        try:
            own = None if own is None or given.table is None else own | _table_classes(given.table)
        except StudyError:
            return None
    return own or None


def own_classes(files: SourceFiles) -> set[str] | None:
    """The classes of a source by its class folders of pictures; None if an NPZ may hold any."""
    if NPZ in files.kinds:
        return None
    return {label for label, _ in folder_labels(files.named(PICTURE, OTHER)).values()}


def _folder_problems(given: Labelled) -> Iterator[str]:
    """Why folders cannot be the classes of the images of a source."""
    instead = "Put the images of each class into a folder of its name, or name a table of id and label"
    if given.files.all_are(NPZ):
        yield f"`{FOLDERS}`: an NPZ lies in no folder of its class. Leave `labels` out (it may hold its own), or name a table"
    elif not any("/" in name for name in given.files.names):
        first = min(given.files.names)
        yield f"`{FOLDERS}`: no image lies in a folder: the first of {len(given.files.names)} files is {first!r}. {instead}"


def _class_problems(given: Labelled, table: Table | None) -> Iterator[Problem]:
    """Classification tasks without enough classes in the labels and the source itself."""
    tasks, labels = given.predicting("classes"), given.labels
    if not tasks:
        return
    own = own_classes(given.files)
    said = _folder_classes(given.files) if labels == FOLDERS else _table_classes(table) if table else set()
    found = sorted((own or set()) | said)
    for text in wrong_classes(found):
        yield (given.loc if labels else ("finetune", next(iter(tasks)), "source")), f"{labels or given.source}: {text}"
    if own is None or (labels == FOLDERS and not said):
        return  # an NPZ may hold others, and missing folders are reported already
    for task, options in tasks.items():
        least = 1 if options.options.get("multilabel") else 2
        if not found and labels is None:
            yield (
                ("finetune", task, "source"),
                f"source {given.source!r} has no labels: only an NPZ, and pictures in equal class folders below two or more of "
                f"train, val and test bring classes themselves. Name them under sources.{given.source}.labels (a table of id and "
                f"label, or `{FOLDERS}`), or take another source",
            )
        elif not found and table:
            yield (
                given.loc,
                f"{labels}: no row has a 'label', which finetune.{task} needs; {_why_no_label(table)}",
            )
        elif not found:
            yield (
                given.loc,
                f"{labels!r} holds masks and no classes, and finetune.{task} ({options.task}) needs classes. Name a table of id "
                "and label, or take another task",
            )
        elif isinstance(prior := options.options.get("prior"), list) and len(prior) != len(found):
            yield (
                ("finetune", task, "options"),
                f"prior has {len(prior)} numbers, and source {given.source!r} has {len(found)} classes ({', '.join(found)}); "
                "expected a number for each. Correct it, or write support or equal",
            )
        elif len(found) < least:
            yield (
                given.loc if labels else ("finetune", task, "source"),
                f"{labels}: all labels are {found[0]!r}, and finetune.{task} ({options.task}) needs {least} classes or more. "
                "Label the others too",
            )
        rows = table.rows if table and table.is_by_name and not options.options.get("multilabel") else []
        several = next((row for row in rows if MANY in row.get("label", "") and table and table.find(row)), None)
        if several is not None:
            yield (
                ("finetune", task, "options"),
                f"{labels}: row {several.number} has several classes ({several['label']!r}), and finetune.{task} expects one. "
                f"Set finetune.{task}.options.multilabel: true",
            )


def _folder_classes(files: SourceFiles) -> set[str]:
    return {name.split("/")[-2] for name in files.names if "/" in name and kind_of(name) in (PICTURE, GRID, OTHER)}


def _table_classes(table: Table) -> set[str]:
    return classes_of(row["label"] for row in table.rows if "label" in row)


def _why_no_label(table: Table) -> str:
    if "label" in table.rows.columns:
        return "the column is there, and each of its cells is empty or n/a"
    others = [name for name in table.rows.columns if name not in ID_COLUMNS]
    return f"the columns beside the id are {others}. Name the column of the classes 'label'"


def _mask_problems(given: Labelled, table: Table | None) -> Iterator[Problem]:
    """Segmentation tasks on a source without masks."""
    tasks, files, labels = given.predicting("masks"), given.files, given.labels
    if not tasks:
        return
    comes_apart = labels not in (None, FOLDERS) and not is_label_table(str(labels))
    why = ""
    if files.all_are(*NO_MASKS):
        why = "it holds pictures alone, and a segmentation is trained on volumes with masks"
    elif not comes_apart and files.all_are(GRID) and not files.masks(table.masks if table else {}).masks:
        why = f"of its {len(files.named(GRID))} {GRID} files none is the mask of another by its name (docs/explanation/ingest.md)"
    for task in tasks if why else ():
        yield (
            ("finetune", task, "source"),
            f"source {given.source!r} has no masks: {why}. Name a folder of masks under sources.{given.source}.labels, or take "
            "another source",
        )


def _no_masks_at(path: Path) -> str:
    """Why label files other than a table cannot be masks; empty if they may."""
    if path.is_dir():
        names = [file.name for file in path.rglob("*") if file.is_file()]
        if not names:
            return f"{str(path)!r} is an empty folder: there are no masks"
        if not any(kind_of(name) in (GRID, OTHER) for name in names):
            return (
                f"{str(path)!r} holds {len(names)} files such as {min(names)!r}, and no DICOM, {GRID} file; expected masks. For "
                "classes name a table (.csv, .tsv) of id and label"
            )
        return ""
    with open(path, "rb") as file:
        head = file.read(400)
    if any(head[at : at + len(mark)] == mark for at, mark in MAGIC):
        return ""
    if kind_of(path.name) == OTHER and head and _is_text(head):
        return f"{str(path)!r} is text, and a table of labels is known by its name. Rename it to {f'{path.stem}.csv'!r}, or .tsv"
    if kind_of(path.name) == OTHER:
        return ""
    return (
        f"{str(path)!r} is neither a table of labels (.csv, .tsv, .txt) nor a mask (DICOM, {GRID}); expected one of these, a "
        f"folder of masks, or `{FOLDERS}`. Save a table as CSV"
    )


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are a readable line of text."""
    text = head.decode("utf-8", "replace").rstrip("\ufffd")  # the last letter may be cut
    return all(letter.isprintable() or letter in "\t\r\n\ufeff" for letter in text) and "\n" in text
