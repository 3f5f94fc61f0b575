"""Checks the labels as classes: consistent spelling, not measurements, enough patients per class, the positive one among them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set

from medssl.core import plugins
from medssl.core.errors import StudyError, did_you_mean
from medssl.core.file_names import folder_labels
from medssl.core.label_table import classes_of
from medssl.finetune.options import FinetuneOptions
from medssl.study.check_split import patients_at_most
from medssl.study.check_table import Table
from medssl.study.file import Loc
from medssl.study.source_files import GRID, NPZ, OTHER, PICTURE, SourceFiles

Problem = tuple[Loc, str]
MANY_CLASSES = 20
"""Above this number of classes there is a note if they are numbers, or half as many as the rows."""
FEW_GRADES = 10
"""Up to this many different numbers with a fraction (half grades) are classes."""


def wrong_classes(classes: Iterable[str]) -> Iterator[str]:
    """Why words cannot be the classes of one task."""
    found = sorted(classes)
    alike: dict[str | float, list[str]] = defaultdict(list)
    for name in found:
        number = _number(name)
        alike[" ".join(name.casefold().split()) if number is None else number].append(name)
    for names in alike.values():
        if len(names) > 1:
            yield f"the classes {' and '.join(map(repr, names))} differ in their spelling alone. Write one class in one way"
    numbers = [number for name in found if (number := _number(name)) is not None]
    if len(numbers) == len(found) > FEW_GRADES and any(number % 1 for number in numbers):
        yield (
            f"the labels are {len(found)} different numbers such as {found[0]} and {found[1]}; expected classes. Take a task "
            f"that predicts numbers ({_of_values()}), or write a class for each range of values"
        )


def many_classes(classes: Set[str], num_rows: int) -> str:
    """A note that labels hardly look like classes; empty if they do."""
    are_numbers = all(_number(name) is not None for name in classes)
    if len(classes) <= MANY_CLASSES or not (are_numbers or 2 * len(classes) > num_rows):
        return ""
    return (
        f"{num_rows} labels are of {len(classes)} classes{', all of them numbers' if are_numbers else ''}; is each one a class?"
    )


def unknown_positive(wanted: str | None, classes: Mapping[str, Set[str] | None]) -> Iterator[Problem]:
    """A positive class that no task has. `classes`: of each classification task; None if only the images have them."""
    known = set[str]().union(*(found or () for found in classes.values()))
    if wanted is not None and classes and None not in classes.values() and wanted not in known:
        yield ("evaluate", "positive"), f"there is no class {wanted!r} in {', '.join(classes)}.{did_you_mean(wanted, known)}"


def unknown_class_names(names: Mapping[str, Iterable[str]], classes: Mapping[str, Set[str] | None]) -> Iterator[Problem]:
    """Names for classes that a source does not have. By source: the named classes and its own; None if not known yet."""
    for source, named in names.items():
        known = classes.get(source)
        for label in named if known is not None else ():
            if label not in known:  # type: ignore[operator]
                said = f"the labels of {source!r} have no class {label!r}.{did_you_mean(label, known or ())}"
                yield ("sources", source, "class_names"), f"{said} Name classes as the labels write them"


def labelled_at_most(files: SourceFiles, table: Table | None, *, classes: bool) -> int | None:
    """How many patients (images, without patients) may have a label; None if a file can hold any number.

    `classes`: the labels are classes; a table with image names gives them to the named images only.
    """
    rows = table.rows if table else []
    try:
        if table is None or not classes or not table.is_by_name or any(map(table.is_minted, rows)):
            return patients_at_most(files, list(rows))
        subject_of = {file: subject for subject, of_one in table.subjects.items() for file in of_one}
        return len({subject_of.get(file, ("file", file)) for file in table.with_class})
    except StudyError:
        return None  # of `subject_pattern`, which is checked by itself


def too_many(task: str, options: FinetuneOptions, most: int | None) -> Iterator[Problem]:
    """Requests for more labelled patients than there are."""
    count = max(options.counts, default=0)
    if most is not None and count > most:
        yield (
            ("finetune", task, "counts"),
            f"the labels of {count} patients are asked for, and source {options.source!r} has {most} labelled patients or images "
            "at most. Lower it; 1.0 in fractions is all there are",
        )


def short_classes(task: str, options: FinetuneOptions, units: Mapping[str, Set[str]]) -> Iterator[Problem]:
    """Requests for more patients of each class than a class has. `units`: those that may be of each class."""
    count = max(options.counts_per_class, default=0)
    for name in sorted(units, key=lambda name: (len(units[name]), name))[:1]:
        if count > len(units[name]):
            yield (
                ("finetune", task, "counts_per_class"),
                f"the labels of {count} patients of each class are asked for, and class {name!r} of source {options.source!r} "
                f"has {len(units[name])} labelled patients or images at most. Lower it, or label more",
            )


def units_by_class(files: SourceFiles, table: Table | None, *, folders: bool) -> dict[str, set[str]]:
    """By class, the patients (images, without patients) that may be of it; empty if names do not show all of them.

    `folders`: an image's folder is its class.
    """
    rows = table.rows if table else []
    if (
        NPZ in files.kinds
        or (table and (not table.is_by_name or any(map(table.is_minted, rows))))
        or (folders and OTHER in files.kinds)
    ):
        return {}
    try:
        subject_of = {file: subject for subject, of_one in table.subjects.items() for file in of_one} if table else {}
    except StudyError:
        return {}  # of `subject_pattern`, which is checked by itself
    of_file = [(file, label) for file, (label, _) in folder_labels(files.named(PICTURE, OTHER)).items()]
    of_file += [(file, file.split("/")[-2]) for file in files.named(PICTURE, GRID) if folders and "/" in file]
    of_file += [(file, row["label"]) for row in rows if "label" in row and table for file in table.find(row)]
    found: dict[str, set[str]] = defaultdict(set)
    for file, label in of_file:
        for name in classes_of([label]):
            found[name].add(subject_of.get(file, file))
    return found


def too_few(task: str, options: FinetuneOptions, most: int | None) -> Iterator[Problem]:
    """A fraction in the study file that is less than one patient."""
    shares = [share for share in options.fractions if most is not None and share * most < 0.5]
    if shares and "fractions" in options.model_fields_set:
        yield (
            ("finetune", task, "fractions"),
            f"{min(shares):g} of at most {most} labelled patients or images is less than one; a fit takes one of each class",
        )


def _of_values() -> str:
    """The tasks that predict numbers, as a study file names them."""
    return " or ".join(f"task: {plugin.name}" for plugin in plugins.all_of("task") if plugin.constant("PREDICTS") == "values")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
