"""Verbs that take a whole study: run, plan, clean, compare, and its specs and schema."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from medssl.cli.parameters import StudyFile, Threads
from medssl.core.files import file_to_write


def run(context: typer.Context) -> None:
    """Run a study with Snakemake, or continue it.

    It prints the command line of Snakemake and runs it. Targets are `pretrain_<cohort>`, `report` and result files; without a
    target, everything is made. `--config FILE` names the study file, which `medssl init FOLDER` can write. Other options go to
    Snakemake unchanged: `-n` shows what would run, and there are `--cores 4`, `--profile slurm` and more (`snakemake --help`).
    """
    import shlex

    from medssl.study.last_lines import TYPED
    from medssl.study.running import program, snakemake_line

    line = snakemake_line(context.args)
    command, name = program()
    print(f"{name} {shlex.join(line)}", file=sys.stderr, flush=True)
    os.environ[TYPED] = shlex.join(["medssl", "run", *context.args])
    os.execv(command[0], [*command, *line])  # noqa: S606  (no shell, and its exit code is ours)


def specs(study_file: StudyFile) -> None:
    """Check a study file and write the spec files of its stages."""
    from medssl.study.sources import refresh_sources

    dag, files = _checked(study_file)
    for note in refresh_sources(dag.study, dag.layout, files):
        print(f"medssl: note: {note}", file=sys.stderr)
    dag.write_specs()
    print(dag.layout.root / "specs")


def plan(
    study_file: StudyFile,
    threads: Threads = 1,
    limit_s: Annotated[float, typer.Option(min=1, help="seconds after which the trial run is stopped")] = 600.0,
) -> None:
    """Estimate the hours, memory and disk of a study on this machine.

    It runs a small piece of the study, and also reports the largest batch that fits. If its time ends before, it prints what it
    measured and names the job at which it stopped.
    """
    import shutil

    from medssl.core.errors import MedsslError
    from medssl.study.planning import table
    from medssl.study.screen import reported_jobs
    from medssl.study.time_left import PLAN, write_plan
    from medssl.study.trials import plan_of

    dag, _ = _checked(study_file)
    study = dag.study
    with reported_jobs() as report:
        found = plan_of(study, threads, limit_s, report)
    hours = {(cost.stage, cost.name): cost.hours for cost in found.costs if cost.hours is not None}
    write_plan(Path(dag.layout.state(PLAN, "")), hours)
    place = next(path for path in [Path(study.output).resolve(), *Path(study.output).resolve().parents] if path.exists())
    print(table(found.costs, shutil.disk_usage(place).free / 1e6, len(list(dag.specs()))))
    for name, batch in found.batches.items():
        print(f"pretrain.{name}: batch_size {study.pretrain[name].batch_size}; the largest that fits one device here: {batch}")
    if found.stopped_at is not None:
        raise MedsslError(
            f"the trials were stopped at {found.stopped_at}, after {limit_s:g} s. It and the jobs after it are not planned, and "
            "the sum is without them. Give the trials more time with --limit-s."
        )


def _checked(study_file: Path) -> tuple[Any, Any]:
    """The jobs of a checked study and the files of its sources; notes of the check are printed."""
    from medssl.study.checks import check_study
    from medssl.study.dag import Dag
    from medssl.study.file import read_study

    study, places = read_study(files=[str(study_file)])
    dag = Dag(study)
    checked = check_study(dag, places)
    for note in checked.notes:
        print(f"medssl: note: {note}", file=sys.stderr)
    return dag, checked.files


def clean(
    study_file: Annotated[Path, typer.Argument(help="study file")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Free disk space: remove what a study can make again.

    It lists what it would remove and asks first: converted images (volumes and arrays), caches, remains of killed jobs, and
    results of runs and fits that the study file no longer has. Encoders, models, tables, predictions and pages stay. The next
    run of the study makes the images again first.
    """
    from medssl.core.layout import Layout
    from medssl.study.cleaning import ARRAYS, VOLUMES, removable, remove, trained_again
    from medssl.study.dag import Dag
    from medssl.study.file import load_study

    study = load_study(files=[str(study_file)])
    root = Layout.of(study.output, study.study).root
    wanted = [spec for _, spec in Dag(study).specs()]
    kinds = removable(root, wanted)
    for kind in kinds:
        print(f"{kind.num_bytes / 1e6:10.1f} MB  {kind.what}")
    if not kinds:
        print(f"{root} holds nothing that can be made again.")
        return
    total_mb = sum(kind.num_bytes for kind in kinds) / 1e6
    print("Encoders, models, tables, predictions and pages stay.")
    again = [stage for stage, _ in trained_again(root, kinds, wanted)]
    if again:
        print(
            "The next run of this study makes these again first, and then repeats the training that depends on them: "
            f"{again.count('pretrain')} finished pre-trainings and {again.count('finetune')} tasks of fine-tuning."
        )
    elif {VOLUMES, ARRAYS} & {kind.what for kind in kinds}:
        print("The next run of this study makes volumes and arrays again first; it repeats no training.")
    if not yes:
        typer.confirm(f"Remove {total_mb:.1f} MB below {root}?", abort=True)
    remove(root, kinds)
    print(f"removed {total_mb:.1f} MB")


def schema() -> None:
    """Print the JSON schema of the study file, for editors."""
    from medssl.study.schema import study_schema

    print(json.dumps(study_schema(), indent=1))


def compare(
    first: Annotated[Path, typer.Argument(help="report.json of the first study")],
    second: Annotated[Path, typer.Argument(help="report.json of the second study")],
    out: Annotated[Path, typer.Option(help="the page to write")] = Path("compare.html"),
) -> None:
    """Write a page that compares two studies."""
    from medssl.report.run import compare as write

    write(first, second, file_to_write(out))
    print(out)
