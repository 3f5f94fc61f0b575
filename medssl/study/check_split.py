"""Whether the parts and folds of a source leave patients for training and for testing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from medssl.core.errors import StudyError
from medssl.core.file_names import folder_labels
from medssl.core.label_table import LabelRow
from medssl.core.listing import nothing_at
from medssl.core.split_file import read_split_file
from medssl.study.check_table import MINTED
from medssl.study.file import Loc
from medssl.study.options import Study
from medssl.study.source_files import GRID, NPZ, OTHER, PICTURE, SourceFiles, kind_of

Problem = tuple[Loc, str]


def split_problems(study: Study, listed: Mapping[str, SourceFiles], tested: Mapping[str, list[str]]) -> Iterator[Problem]:
    """Problems of the splits of the sources. `tested`: the requested tasks on each source."""
    for source in study.sources:
        split = study.prepare_of(source).split
        parts: set[str] | None = None
        has_order = False
        if split.file is not None:
            try:
                if not Path(split.file).is_file():
                    raise StudyError(nothing_at(split.file))
                found = read_split_file(Path(split.file))
                has_order = bool(found.order)
                parts = set(found.parts.values())
                if found.parts and not any(MINTED.fullmatch(name) for name in found.parts):
                    raise StudyError(
                        f"no id of {split.file} is one that medssl gives, the first is {next(iter(found.parts))!r}. Expected "
                        "those of patients (p-…), of series without one (s-…) or images (i-…): `medssl check --table "
                        "--id-key` lists them. File names go into a column `split` of the label table"
                    )
            except StudyError as error:
                yield split_loc(study, source, "file"), str(error)
                continue
        elif source in listed:
            yield from _too_many_folds(study, source, listed[source])
            parts = _official_parts(listed[source])
        if source in tested and split.folds is None:
            yield from _missing_parts(study, source, parts, tested[source])
        yield from _no_order(study, source, tested.get(source, []), has_order)
    yield from _all_held_out(study)


def split_notes(
    study: Study, listed: Mapping[str, SourceFiles], runs: set[str], tested: Mapping[str, list[str]]
) -> Iterator[Problem]:
    """Notes: patients that a pre-training does not see, and validation parts of folds with one patient or none.

    `runs`: the requested pre-trainings; `tested`: the requested tasks on each source.
    """
    for source in [source for source in listed if source in tested]:
        yield from _few_choose(study, source, listed[source], tested[source][0])
    for name, source in _held_out(study):
        if name in runs:
            yield (
                split_loc(study, source, "folds"),
                f"source {source!r} is cut into folds, so pretrain.{name} sees none of its patients: each is held out once",
            )


def split_loc(study: Study, source: str, option: str) -> Loc:
    """The place in the study file of an option of the split of a source."""
    own = option in study.sources[source].prepare.get("split", {})
    return ("sources", source, "prepare", "split", option) if own else ("prepare", "split", option)


def patients_at_most(files: SourceFiles, rows: list[LabelRow]) -> int | None:
    """How many patients (images, without patients) a source may have; None if a file can hold any number.

    Raises:
        StudyError: `subject_pattern` does not fit a name.
    """
    if NPZ in files.kinds:
        return None
    said = {row["file"]: row["subject"] for row in rows if "subject" in row}
    scans = files.scans({row["file"]: row["mask"] for row in rows if "mask" in row}) if GRID in files.kinds else []
    images = [*scans, *files.named(PICTURE)]
    subjects = files.subjects_by_name(name for name in images if name not in said) | said
    units = {("subject", subjects[name]) if name in subjects else ("file", name) for name in images}
    others = sum(kind_of(name) == OTHER for name in files.names) if OTHER in files.kinds else 0
    return len(units) + others


def _too_many_folds(study: Study, source: str, files: SourceFiles) -> Iterator[Problem]:
    """More folds than patients, or a pattern that does not fit every name."""
    folds, pattern = study.prepare_of(source).split.folds, files.ingest.subject_pattern
    if folds is None and (pattern is None or not files.kinds & {GRID, PICTURE}):
        return
    try:
        most = patients_at_most(files, _rows(files))
    except StudyError as error:
        own = "subject_pattern" in study.sources[source].ingest
        yield ("sources", source, "ingest", "subject_pattern") if own else ("ingest", "subject_pattern"), str(error)
        return
    if folds is not None and most is not None and most < folds:
        yield (
            split_loc(study, source, "folds"),
            f"{folds} folds of source {source!r}, which has {most} patients or images at most; each fold needs one. Ask for "
            "fewer folds",
        )


def _official_parts(files: SourceFiles) -> set[str] | None:
    """The parts that class folders or a label table of a source name; empty if parts are drawn, None if not known."""
    parts = {str(part) for _, part in folder_labels(files.named(PICTURE, OTHER)).values()} if files.kinds - {GRID} else set()
    if NPZ in files.kinds or (parts and OTHER in files.kinds):
        return None
    pictures = set(files.named(PICTURE))
    return parts | {row["split"] for row in _rows(files) if "split" in row and row["file"] in pictures}


def _missing_parts(study: Study, source: str, parts: set[str] | None, tasks: list[str]) -> Iterator[Problem]:
    """A source of a task without a test part or without a training part."""
    split = study.prepare_of(source).split
    needs = f"finetune.{tasks[0]} is tested on source {source!r}"
    if parts and split.file is None and "test" not in parts:
        yield (
            ("finetune", tasks[0], "source"),
            f"{needs}, whose own split has the parts {', '.join(sorted(parts))} alone; expected a test part. Add one, or name "
            f"every part in sources.{source}.prepare.split.file",
        )
    elif split.file is not None:
        for part in [part for part in ("train", "test") if part not in (parts or set())]:
            yield split_loc(study, source, "file"), f"{needs}, and {split.file!r} puts no patient into the {part} part. Name some"
    elif parts == set() and split.test_frac == 0:
        yield (
            split_loc(study, source, "test_frac"),
            f"{needs}, and test_frac 0 leaves no patient to test on; expected a share above 0. Raise "
            f"sources.{source}.prepare.split.test_frac, or set folds or file there",
        )


def _no_order(study: Study, source: str, tasks: list[str], has_order: bool) -> Iterator[Problem]:
    """A task that uses labels in the order of a split file that has no order."""
    for task in [task for task in tasks if study.finetune[task].label_order == "listed" and not has_order]:
        yield (
            ("finetune", task, "label_order"),
            f"listed, and the split of source {source!r} lists no order. Give sources.{source}.prepare.split.file a third column "
            "`order` with a whole number for every training id, or set label_order to drawn",
        )


def _few_choose(study: Study, source: str, files: SourceFiles, task: str) -> Iterator[Problem]:
    """Folds with one validation patient or none, if file names show the number of patients."""
    split, most = study.prepare_of(source).split, patients_at_most(files, _rows(files))
    if most is None or split.folds is None or not split.val_frac:
        return
    outside = most - -(-most // split.folds)
    count = round(split.val_frac * outside)
    if count <= 1:
        yield (
            split_loc(study, source, "folds"),
            f"at most {outside} of the patients or images of source {source!r} are outside a fold, and val_frac "
            f"{split.val_frac:g} of them is {count}: {'one patient' if count else 'none'} chooses among the steps and "
            f"penalties of each fit of finetune.{task}. A larger val_frac leaves more",
        )


def _held_out(study: Study) -> Iterator[tuple[str, str]]:
    """Pre-trainings with those of their sources that are cut into folds."""
    for name, run in study.pretrain.items():
        for source in study.all_cohorts.get(study.cohort_of(run), []):
            if source in study.sources and study.prepare_of(source).split.folds is not None:
                yield name, source


def _all_held_out(study: Study) -> Iterator[Problem]:
    """Pre-trainings whose sources are all cut into folds, so that every patient is held out."""
    for name, run in study.pretrain.items():
        cohort = study.cohort_of(run)
        sources = [source for source in study.all_cohorts.get(cohort, []) if source in study.sources]
        folded = [source for of_run, source in _held_out(study) if of_run == name]
        if sources and folded == sources:
            where = ".".join(split_loc(study, folded[0], "folds"))
            yield (
                ("pretrain", name, "cohort"),
                f"run {name!r} pre-trains on {'source' if len(folded) == 1 else 'sources'} {', '.join(map(repr, folded))}, "
                f"{'which is' if len(folded) == 1 else 'all of which are'} cut into folds ({where}), so each patient is held out "
                "and none is left to learn from. Pre-train on another source, or leave folds out",
            )


def _rows(files: SourceFiles) -> list[LabelRow]:
    """The rows of the label table of a source; none without a readable table (another check reports it)."""
    try:
        return files.table or []
    except StudyError:
        return []
