"""Checks before work starts: paths, labels and their columns, names, parts of the split, batches, targets. They read no pixel and
no header of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medssl.artefacts.names import RESERVED, Run
from medssl.core import plugins
from medssl.core.errors import StudyError, did_you_mean
from medssl.core.files import read_json
from medssl.core.listing import load_key, nothing_at
from medssl.core.options import PluginChoice
from medssl.reduce.options import max_distance
from medssl.study.check_classes import unknown_class_names, unknown_positive
from medssl.study.check_folders import folder_problems
from medssl.study.check_labels import Labelled, known_classes, label_notes, label_problems, predicts
from medssl.study.check_records import record_notes, record_problems
from medssl.study.check_sources import idle_options, mixed_cohorts, without_spacing, without_volumes
from medssl.study.check_split import split_notes, split_problems
from medssl.study.check_starts import start_notes, start_problems
from medssl.study.check_weights import CheckedWeights, check_weights
from medssl.study.dag import Dag
from medssl.study.file import Loc, Places
from medssl.study.options import Study
from medssl.study.reach import Reach, reach
from medssl.study.source_files import BESIDE, GRID, NPZ, SourceFiles, kind_of

Problem = tuple[Loc, str]
MOST_OF_A_SLICE = 4_194_304
"""Bytes of a file, beyond which it may hold many slices (enhanced DICOM); 1024² pixels of CT have half of them."""


@dataclass(frozen=True)
class Checked:
    """A study without a problem: notes for its user, and the files of its sources."""

    notes: list[str]
    files: dict[str, SourceFiles]


def check_study(dag: Dag, places: Places, targets: Iterable[str] = ()) -> Checked:
    """Check a study before work starts.

    Args:
        dag: of the study.
        places: file and line of every key, for the sentences.
        targets: of the call to Snakemake; none means everything.

    Raises:
        StudyError: all problems, each with file, line and value.
    """
    study, asked = dag.study, list(targets)
    reserved = list(_reserved(study))
    reached = Reach([], list(study.finetune), frozenset(study.sources)) if reserved else reach(dag, asked)
    weights = CheckedWeights([], []) if reserved else check_weights(dag)
    listed: dict[str, SourceFiles] = {}
    found = [*reserved, *_sections(study), *_list_sources(study, listed), *folder_problems(study, dag.layout)]
    found += weights.problems
    found += [] if reserved else [*start_problems(dag), *_beyond_all_distances(dag), *without_volumes(dag, listed)]
    found += [] if reserved else without_spacing(dag, listed)
    found += [*idle_options(study, listed), *split_problems(study, listed, _tested(study, reached))]
    labelled = {name: _labelled(study, name, listed, reached) for name in listed}
    found += [problem for given in labelled.values() for problem in label_problems(given)]
    found += [] if reserved else record_problems(dag, listed, reached)
    found += unknown_positive(study.evaluate.positive, of_tasks := _classes(study, labelled))
    of_sources = {study.finetune[task].source: classes for task, classes in of_tasks.items()}
    found += unknown_class_names({name: source.class_names for name, source in study.sources.items()}, of_sources)
    problems = [*(places.sentence(loc, text) for loc, text in found), *unknown_targets(dag, asked)]
    if problems:
        raise StudyError("\n".join(dict.fromkeys(problems)))
    notes = [*weights.notes, *_notes(dag, listed, labelled, reached)]
    return Checked([places.sentence(loc, text) for loc, text in notes], listed)


def unknown_targets(dag: Dag, targets: Iterable[str]) -> Iterator[str]:
    """A sentence for each target that is neither a rule nor a file."""
    known = ["all", "report", *(f"pretrain_{cohort}" for cohort in dag.cohorts())]
    for target in targets:
        if target not in known and "/" not in target and not Path(target).suffix:
            hint = did_you_mean(target, known)
            yield f"there is no target {target!r}.{hint} The targets of this study: {', '.join(known)}."


def _sections(study: Study) -> Iterator[Problem]:
    """Problems within one section."""
    yield from _empty_cohorts(study)
    yield from _unequal_windows(study)
    if study.id_key is not None:
        try:
            load_key(study.id_key)
        except StudyError as error:
            there = Path(study.id_key).is_file()
            yield ("id_key",), str(error) if there else nothing_at(study.id_key)


def _list_sources(study: Study, listed: dict[str, SourceFiles]) -> Iterator[Problem]:
    """Fill in the files of each source; yield the sources that have none."""
    for name, source in study.sources.items():
        try:
            listed[name] = SourceFiles.of(name, source.path, source.labels, study.ingest_of(name), records=source.records)
        except StudyError as error:
            yield ("sources", name, "path"), str(error).removeprefix(f"sources.{name}.path ")
            continue
        names = listed[name].names
        if not names:
            text = f"{source.labels!r} is all there is in {source.path!r}, and no image is left"
            yield ("sources", name, "labels"), f"{text}. Put labels and images into folders of their own"
        elif not listed[name].kinds:
            text = f"no file of {source.path!r} can be an image, by their names: it holds {len(names)}, such as {min(names)!r}"
            yield ("sources", name, "path"), f"{text}. Expected DICOM, NIfTI, NRRD, MetaImage, PNG, JPEG or NPZ"
        if not listed[name].kinds:
            del listed[name]


def _tested(study: Study, reached: Reach) -> dict[str, list[str]]:
    """The requested tasks, by source."""
    found: dict[str, list[str]] = {}
    for task in reached.tasks:
        found.setdefault(study.finetune[task].source, []).append(task)
    return found


def _labelled(study: Study, source: str, listed: dict[str, SourceFiles], reached: Reach) -> Labelled:
    tasks = {name: study.finetune[name] for name in _tested(study, reached).get(source, [])}
    return Labelled(study, source, listed[source], tasks, source in reached.labelled)


def _classes(study: Study, labelled: Mapping[str, Labelled]) -> dict[str, set[str] | None]:
    """The classes of each classification task; None if not known yet."""
    tasks = {name: task.source for name, task in study.finetune.items() if predicts(task, "classes")}
    return {name: known_classes(labelled[source]) if source in labelled else None for name, source in tasks.items()}


def _beyond_all_distances(dag: Dag) -> Iterator[Problem]:
    """Thresholds above the largest possible distance of two slices, which would keep one slice per volume."""
    for name, arm in dag.arms.items():
        reducer = dag.reducer_of(name)
        most = max_distance(reducer)
        if most is not None and arm.threshold is not None and arm.threshold > most:
            text = f"the threshold {arm.threshold:g} is above {most:g}, the largest distance that {reducer.name} can measure here"
            yield ("reduce", "arms", name, "threshold"), f"{text}; one slice of each volume would be left. Lower it"


def _reserved(study: Study) -> Iterator[Problem]:
    """Reserved names, and names that two things would share."""
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
    """Sources of one cohort with different numbers of channels."""
    for cohort, members in study.cohorts.items():
        known = [member for member in members if member in study.sources]
        numbers = {member: len(study.prepare_of(member).window_hu) for member in known}
        if len(set(numbers.values())) > 1:
            yield (
                ("cohorts", cohort),
                (f"the sources of a cohort need equally many windows (channels), got {numbers}. Set prepare.window_hu alike"),
            )


def _notes(dag: Dag, listed: dict[str, SourceFiles], labelled: Mapping[str, Labelled], reached: Reach) -> Iterator[Problem]:
    """Problems of the requested work."""
    study = dag.study
    yield from mixed_cohorts(dag)
    yield from record_notes(dag, listed, reached)
    yield from start_notes(dag, reached.tasks)
    trained = {source for cohort, _ in reached.runs for source in study.all_cohorts[cohort]}
    for name in listed:
        if name in trained | reached.labelled:
            yield from label_notes(labelled[name])
    yield from split_notes(study, listed, {run.name for _, run in reached.runs}, _tested(study, reached))
    for cohort, run in reached.runs:
        options = study.pretrain[run.name]
        num_samples, exact = _samples_at_most(dag, cohort, run.arm, listed)
        amount = f"{'' if exact else 'at most '}{num_samples} samples"
        if num_samples is not None and num_samples < options.batch_size:
            text = f"arm {run.arm!r} of {cohort!r} has {amount}, so a step of {run} sees {num_samples} of {options.batch_size}"
            yield ("pretrain", run.name, "batch_size"), text
        if num_samples is not None:
            yield from _many_prototypes(run, options.objective, num_samples, amount)
        small, why = plugins.find("objective", options.objective.name).constant("SMALL_BATCH", default=(0, ""))
        seen = min(options.batch_size, options.batch_size if num_samples is None else num_samples)
        if seen < small:
            yield ("pretrain", run.name, "batch_size"), f"a step of {run} sees {seen} images, fewer than {small}: {why}"


def _many_prototypes(run: Run, chosen: PluginChoice, num_samples: int, amount: str) -> Iterator[Problem]:
    """More prototypes than the samples of a run can fill."""
    objective = plugins.find("objective", chosen.name)
    each = objective.constant("SAMPLES_PER_PROTOTYPE", default=0)
    asked = objective.check(chosen.options)["prototypes"] if each else 0
    if num_samples < each * asked:
        text = f"{run} asks for {asked} prototypes, and has {amount}: fewer than {each} for each"
        yield ("pretrain", run.name, "objective"), f"{text}. Lower prototypes, for example to {max(2, num_samples // 8)}"


def _samples_at_most(dag: Dag, cohort: str, arm: str, listed: dict[str, SourceFiles]) -> tuple[int | None, bool]:
    """The number of samples of a run over an arm: that of its last decision, else at most the files of its sources."""
    kept = _kept(Path(dag.layout.reduce(cohort, arm, "summary.json")))
    if kept is not None:
        return kept, True
    count = 0
    for source in dag.study.all_cohorts[cohort]:
        if listed[source].kinds & {GRID, NPZ}:
            return None, False  # one file holds many
        images = [size for (name, size, *_), _ in listed[source].found if kind_of(name) != BESIDE]
        if max(images, default=0) > MOST_OF_A_SLICE:
            return None, False  # and so may a large one
        count += len(images)
    keep_frac = dag.arms[arm].keep_frac
    return (count if keep_frac is None else max(1, round(keep_frac * count))), False


def _kept(summary: Path) -> int | None:
    """How many slices an arm kept at its last decision; None without one, or if its summary is damaged."""
    try:
        return int(read_json(summary)["kept"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
