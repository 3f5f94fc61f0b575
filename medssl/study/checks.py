"""What can be known before work starts: paths, labels and their columns, names, parts of the split, batches, targets. No pixel is
read, and no header of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from medssl.artefacts.names import RESERVED
from medssl.core import plugins
from medssl.core.errors import StudyError, did_you_mean
from medssl.core.files import read_json
from medssl.core.label_table import FOLDERS, ID_COLUMNS, contradictions, is_label_table, read_label_table
from medssl.core.listing import Listed, beside, walk
from medssl.core.split_file import read_split_file
from medssl.study.check_sources import idle_options, mixed_cohorts
from medssl.study.dag import Dag
from medssl.study.file import Loc, Places
from medssl.study.options import Study

Problem = tuple[Loc, str]
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NIFTI = (".nii", ".nii.gz")


def check_study(dag: Dag, places: Places, targets: Iterable[str] = ()) -> list[str]:
    """What the user of a study should know before it runs.

    Args:
        dag: of the study.
        places: file and line of every key, for the sentences.
        targets: what Snakemake was asked for; nothing means everything.

    Raises:
        StudyError: what cannot work, all of it, with file, line and the value tried.
    """
    problems = [places.sentence(loc, text) for loc, text in _problems(dag, list(targets))]
    problems += list(unknown_targets(dag, targets))
    if problems:
        raise StudyError("\n".join(dict.fromkeys(problems)))
    return [places.sentence(loc, text) for loc, text in _notes(dag, list(targets))]


def unknown_targets(dag: Dag, targets: Iterable[str]) -> Iterator[str]:
    """A sentence for each target that is neither a rule's name nor a file."""
    known = ["all", "report", *(f"pretrain_{cohort}" for cohort in dag.cohorts())]
    for target in targets:
        if target not in known and "/" not in target and not Path(target).suffix:
            hint = did_you_mean(target, known)
            yield f"there is no target {target!r}.{hint} The targets of this study: {', '.join(known)}."


def wants_tasks(dag: Dag, targets: list[str]) -> bool:
    """Whether what was asked for goes on to fine-tuning: everything that is not the page of a cohort does."""
    cohort_pages = {f"pretrain_{cohort}" for cohort in dag.cohorts()}
    return not targets or any(target not in cohort_pages for target in targets)


def _problems(dag: Dag, targets: list[str]) -> Iterator[Problem]:
    study = dag.study
    yield from _reserved(study)
    yield from _empty_cohorts(study)
    yield from _unequal_windows(study)
    yield from _nothing_to_learn_from(study)
    yield from _named_files(study)
    listed: dict[str, list[Listed]] = {}
    for name, source in study.sources.items():
        loc = ("sources", name, "path")
        try:
            listed[name] = walk(name, source.path)
        except StudyError as error:
            yield loc, str(error)
    yield from idle_options(dag)
    tasks = wants_tasks(dag, targets)
    for name in study.sources:
        yield from _labels_of(study, name, wanted=tasks and name in {task.source for task in study.finetune.values()})
    if tasks:
        for name, task in study.finetune.items():
            if task.source in listed and study.sources[task.source].labels is None:
                yield from _without_labels(name, task.task, task.source, listed[task.source])


def _reserved(study: Study) -> Iterator[Problem]:
    """Names that mean something else, and names that two things would share."""
    named: list[tuple[str, Loc]] = [("study", ("study",))]
    values = {"study": [study.study]}
    for what, section in (("source", study.sources), ("cohort", study.cohorts), ("pretrain", study.pretrain)):
        values[what] = list(section)
        named.append((what, ({"source": "sources", "cohort": "cohorts", "pretrain": "pretrain"}[what],)))
    for what, loc in named:
        for name in values[what]:
            if name in RESERVED[what]:
                place = loc if what == "study" else (*loc, name)
                yield place, f"{name!r} is reserved: {RESERVED[what][name]}. Choose another name"
    for arm in study.reduce.arms:
        if arm in RESERVED["arm"]:
            yield ("reduce", "arms", arm), f"{arm!r} is reserved: {RESERVED['arm'][arm]}. Choose another name"
    for cohort in study.cohorts:
        if cohort in study.sources:
            yield ("cohorts", cohort), f"{cohort!r} is a source too, and each source is a cohort of its own. Choose another name"
    for task, options in study.finetune.items():
        for weights in options.weights:
            loc = ("finetune", task, "weights", weights)
            if weights in RESERVED["weights"]:
                yield loc, f"{weights!r} is reserved: {RESERVED['weights'][weights]}. Choose another name"
            if weights in study.pretrain:
                yield loc, f"{weights!r} is a pre-training of this study too. Choose another name"


def _empty_cohorts(study: Study) -> Iterator[Problem]:
    for cohort, members in study.cohorts.items():
        if not members:
            yield ("cohorts", cohort), f"cohort {cohort!r} has no sources. Name one or more of {', '.join(study.sources)}"
        for member in sorted({member for member in members if members.count(member) > 1}):
            yield ("cohorts", cohort), f"source {member!r} stands twice in cohort {cohort!r}. Remove one"


def _unequal_windows(study: Study) -> Iterator[Problem]:
    """Sources of one cohort whose images would have different numbers of channels."""
    for cohort, members in study.cohorts.items():
        known = [member for member in members if member in study.sources]
        numbers = {member: len(study.prepare_of(member).window_hu) for member in known}
        if len(set(numbers.values())) > 1:
            yield (
                ("cohorts", cohort),
                (f"the sources of a cohort need equally many windows (channels), got {numbers}. Set prepare.window_hu alike"),
            )


def _nothing_to_learn_from(study: Study) -> Iterator[Problem]:
    """Pre-trainings on sources all of whose patients are held out in folds."""
    for name, run in study.pretrain.items():
        cohort = study.cohort_of(run)
        sources = [source for source in study.all_cohorts.get(cohort, []) if source in study.sources]
        if sources and all(study.prepare_of(source).split.folds for source in sources):
            yield (
                ("pretrain", name, "cohort"),
                (
                    f"every source of cohort {cohort!r} is cut into folds (prepare.split.folds), so each patient is held out. "
                    "Pre-train on other sources"
                ),
            )


def _named_files(study: Study) -> Iterator[Problem]:
    """Files that the study file names itself."""
    named: list[tuple[Loc, str | None]] = [(("id_key",), study.id_key)]
    named += [(("pretrain", name, "init_weights"), run.init_weights) for name, run in study.pretrain.items()]
    for task, options in study.finetune.items():
        named += [(("finetune", task, "weights", name), path) for name, path in options.weights.items()]
    for loc, path in named:
        if path is not None and not Path(path).is_file():
            yield loc, _nothing_at(path)
    for source in study.sources:
        split = study.prepare_of(source).split
        own = "split" in study.sources[source].prepare
        loc = ("sources", source, "prepare", "split", "file") if own else ("prepare", "split", "file")
        if split.file is not None and not Path(split.file).is_file():
            yield loc, _nothing_at(split.file)
        elif split.file is not None:
            try:
                read_split_file(Path(split.file))
            except StudyError as error:
                yield loc, str(error)


def _labels_of(study: Study, source: str, *, wanted: bool) -> Iterator[Problem]:
    """What is wrong with the label files of a source. That they are missing stops only what needs them: they may come later."""
    labels, loc = study.sources[source].labels, ("sources", source, "labels")
    if labels is None or labels == FOLDERS:
        return
    if not Path(labels).exists():
        if wanted:
            yield loc, _nothing_at(labels)
        return
    if Path(labels).is_dir():
        if wanted and not any(path.is_file() for path in Path(labels).rglob("*")):
            yield loc, f"{labels!r} is an empty folder: there are no masks"
        return
    if is_label_table(labels):
        yield from ((loc, text) for text in _table_problems(study, source, Path(labels), wanted=wanted))


def _table_problems(study: Study, source: str, table: Path, *, wanted: bool) -> Iterator[str]:
    try:
        rows = read_label_table(table)
    except StudyError as error:
        yield f"{table}: {error}"
        return
    header = sorted({name for row in rows for name in row} - {"file"})
    kinds = {plugins.find("task", task.task).constant("PREDICTS") for task in study.finetune.values() if task.source == source}
    needed = {"classes": "label", "masks": "mask"}
    for kind in sorted(kinds) if wanted else ():
        if needed[kind] not in header:
            yield f"{table}: no row has a {needed[kind]!r}; the columns beside {' or '.join(ID_COLUMNS)} are {header}"
    for group in study.sources[source].groups:
        if group not in header:
            yield f"{table}: there is no column {group!r} for `groups`.{did_you_mean(group, header)}"
    for first, second in contradictions(rows):
        yield f"{table}: rows {first.number} and {second.number} say different things of {first['file']!r}. Keep one of them"


def _without_labels(task: str, kind: str, source: str, listed: list[Listed]) -> Iterator[Problem]:
    """A task on a source that names no labels, where its files cannot bring any."""
    names = [row[0].lower() for row in listed]
    wants = plugins.find("task", kind).constant("PREDICTS")
    loc = ("finetune", task, "source")
    hint = f"Name them under sources.{source}.labels, or take another source"
    if wants == "classes" and not any(name.endswith(".npz") for name in names):
        yield loc, f"source {source!r} has no labels: only image sets (NPZ) bring classes themselves. {hint}"
    if wants == "masks" and all(name.endswith(PICTURES) for name in names):
        yield loc, f"source {source!r} has no masks: it holds pictures alone. {hint}"


def _notes(dag: Dag, targets: list[str]) -> Iterator[Problem]:
    study = dag.study
    yield from mixed_cohorts(dag)
    for name, source in study.sources.items():
        labels = source.labels
        if labels not in (None, FOLDERS) and not Path(str(labels)).exists():
            yield ("sources", name, "labels"), f"{_nothing_at(str(labels))}. Pre-training does not need it; fine-tuning will"
    for cohort, run in dag.runs():
        options = study.pretrain[run.name]
        num_samples, exact = _samples_at_most(dag, cohort, run.arm)
        if num_samples is not None and num_samples < options.batch_size:
            amount = f"{'' if exact else 'at most '}{num_samples} samples"
            text = f"arm {run.arm!r} of {cohort!r} has {amount}, so a step of {run} sees {num_samples} of {options.batch_size}"
            yield ("pretrain", run.name, "batch_size"), text


def _samples_at_most(dag: Dag, cohort: str, arm: str) -> tuple[int | None, bool]:
    """How many samples a run over an arm has: as its last decision states it, else at most the files of its sources."""
    summary = Path(dag.layout.reduce(cohort, arm, "summary.json"))
    if summary.is_file():
        return int(read_json(summary)["kept"]), True
    count = 0
    for source in dag.study.all_cohorts[cohort]:
        names = [row[0].lower() for row in walk(source, dag.study.sources[source].path)]
        if any(name.endswith((*NIFTI, ".npz", ".npy")) for name in names):
            return None, False  # one file holds many
        count += len(names)
    keep_frac = dag.arms[arm].keep_frac
    return (count if keep_frac is None else max(1, round(keep_frac * count))), False


def _nothing_at(path: str) -> str:
    """That a path leads nowhere, with what was tried and what lies near it."""
    return f"there is nothing at {path!r} (tried {Path(path).resolve()}).{beside(Path(path))}"
