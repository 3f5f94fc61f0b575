"""Options of ingest without effect on the files of a source, by their names; cohorts of several modalities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from medssl.artefacts.series import read_series
from medssl.core import plugins
from medssl.core.label_table import FOLDERS, is_label_table
from medssl.core.written import in_yaml
from medssl.ingest.options import IngestOptions
from medssl.study.check_ranks import deepens, rank_of
from medssl.study.dag import Dag
from medssl.study.file import Loc
from medssl.study.options import Study
from medssl.study.source_files import GRID, NPZ, OTHER, PICTURE, SourceFiles

Problem = tuple[Loc, str]
FORMATS = {PICTURE: "png", GRID: "nifti", NPZ: "npz", OTHER: "dicom"}
"""The format of each kind of file name; a name without a known suffix may be DICOM."""
WORDS = {"dicom": "DICOM", "nifti": GRID, "png": "pictures", "npz": "NPZ"}


def idle_options(study: Study, listed: dict[str, SourceFiles]) -> Iterator[Problem]:
    """Options of ingest without effect on the source that they are written for, or on any source of the study.

    Only clear cases by file names; ingest reports the others at its end.
    """
    idle: dict[str, set[str]] = {}
    held: dict[str, list[str]] = {}
    for name, source in study.sources.items():
        if name not in listed:
            return  # another check reports missing sources
        held[name] = formats = sorted(FORMATS[kind] for kind in listed[name].kinds)
        labels = source.labels
        mask_folder = labels not in (None, FOLDERS) and not is_label_table(str(labels))
        found = study.ingest_of(name).without_effect(formats, mask_folder=mask_folder) if formats else {}
        idle[name] = set(found)
        for option in sorted(set(found) & set(source.ingest)):
            yield (("sources", name, "ingest", option), _no_effect(option, found[option], formats))
    usual = IngestOptions()
    for option in sorted(name for name in study.ingest.model_fields_set if getattr(study.ingest, name) != getattr(usual, name)):
        if idle and all(option in own and option not in study.sources[name].ingest for name, own in idle.items()):
            holds = study.ingest.without_effect([])[option]
            yield (("ingest", option), _no_effect(option, holds, sorted(set().union(*held.values()))))


def _no_effect(option: str, holds: Iterable[str], formats: Iterable[str]) -> str:
    names = [" and ".join(dict.fromkeys(WORDS.get(form, GRID) for form in some)) for some in (holds, formats)]
    return f"it has no effect here: {option} holds for {names[0]}, and the files are {names[1]}. Remove it"


def without_volumes(dag: Dag, listed: Mapping[str, SourceFiles]) -> Iterator[Problem]:
    """Runs and tasks on pictures alone that need volumes: 3-D networks, and options that compare slices of volumes."""

    def flat(source: str) -> bool:
        return source in listed and listed[source].all_are(PICTURE, NPZ)

    for name, run in dag.study.pretrain.items():
        cohort = dag.study.cohort_of(run)
        if not all(map(flat, dag.study.all_cohorts.get(cohort) or [""])):
            continue
        holds = f"cohort {cohort!r} holds pictures alone (PNG, JPEG, NPZ)"
        if run.spatial_dims == 3:
            yield ("pretrain", name, "spatial_dims"), f"3 needs volumes, and {holds}. Set it to 2, or name another cohort"
        objective = plugins.find("objective", run.objective.name)
        options = objective.check(run.objective.options)
        for option, value in objective.constant("ON_PICTURES", default={}).items():
            if options[option] != value:
                text = f"{option} {in_yaml(options[option])} compares slices of volumes, and {holds}"
                yield ("pretrain", name, "objective"), f"{text}. Set it to {in_yaml(value)}, or name another cohort"
    for name, task in dag.study.finetune.items():
        if flat(task.source) and rank_of(dag, task) == 3:
            by_word = deepens(task.encoder)
            what = f"encoder {task.encoder} is" if by_word else "its networks are"
            text = f"{what} 3-D, which needs volumes, and source {task.source!r} holds pictures alone (PNG, JPEG, NPZ)"
            yield (
                ("finetune", name, "encoder" if by_word else "source"),
                f"{text}. Start from 2-D networks, or name another source",
            )


def without_spacing(dag: Dag, listed: Mapping[str, SourceFiles]) -> Iterator[Problem]:
    """Runs whose crops are in mm, on a source of pictures, which have no spacing."""
    for name, run in dag.study.pretrain.items():
        sources = dag.study.all_cohorts.get(dag.study.cohort_of(run)) or []
        flat = [source for source in sources if source in listed and listed[source].all_are(PICTURE, NPZ)]
        if run.views.unit == "mm" and flat:
            text = f"mm needs a spacing, and source {flat[0]!r} holds pictures (PNG, JPEG, NPZ), which have none"
            yield ("pretrain", name, "views", "unit"), f"{text}. Set it to voxels, or name another cohort"


def mixed_cohorts(dag: Dag) -> Iterator[Problem]:
    """Cohorts for pre-training that hold several modalities, according to an earlier ingest of their sources."""
    for cohort in dag.cohorts():
        counts: Counter[str] = Counter()
        sources = dag.study.all_cohorts[cohort]
        for source in sources:
            table = Path(dag.layout.ingest(source, "series.tsv"))
            keeps = dag.study.ingest_of(source).modalities
            rows = read_series(table) if table.is_file() else []
            counts.update(row["modality"] for row in rows if not keeps or row["modality"] in keeps)
        if len(counts) > 1:
            loc = ("sources", cohort, "ingest", "modality") if cohort in dag.study.sources else ("cohorts", cohort)
            what = ", ".join(f"{modality} {number}" for modality, number in sorted(counts.items()))
            text = f"cohort {cohort!r} holds several modalities, by volumes: {what}. Pre-training uses them together"
            yield loc, f"{text}; sources.<name>.ingest.modality keeps one of them"
