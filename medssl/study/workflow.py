"""What the Snakefile needs before it can plan: a checked study, current listings and specs, and the lock of the study."""

from __future__ import annotations

import atexit
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from medssl.core.beside import is_installed
from medssl.core.errors import MedsslError, PreemptedError, StudyError
from medssl.core.job import COMMAND
from medssl.core.lock import hold
from medssl.core.receipts import incomplete
from medssl.study.checks import check_study
from medssl.study.dag import Dag
from medssl.study.dry import leaving_nothing
from medssl.study.file import read_study, read_yaml
from medssl.study.sources import refresh_sources
from medssl.study.steering import Steering


def open_study(workflow: Any, config: dict[str, Any], asked: Any) -> Dag:
    """The jobs of the study that Snakemake was started with; `asked`: its command line, in the process that plans.

    The main process checks the study, refreshes the source listings, writes changed specs, removes the receipts of incomplete
    results, and holds the lock of the study until it ends. A dry run does the same and reverts it at its end. The processes that
    Snakemake starts for single jobs skip all of this. A foreseen error ends the program with one sentence and its exit code.
    """
    with _ending_in_a_sentence():
        study, places = read_study(config, [str(file) for file in workflow.configfiles])
        dag = Dag(study)
        if is_main(workflow):
            os.environ[COMMAND] = command_line(sys.argv)
            checked = check_study(dag, places, asked.targets)
            if _only_plans(asked):
                _held.enter_context(leaving_nothing(dag.layout))
                if getattr(asked, "dryrun", False):
                    _held.callback(_say_checked, len(checked.notes))
            else:
                _held.enter_context(hold(dag.layout.root / ".lock"))
            changed = []
            for receipt, file in incomplete(dag.layout.root):
                receipt.unlink()
                changed += [f"{file} is not as it was made: its job runs again, or is restored"] if file.is_file() else []
            for note in [*changed, *checked.notes, *refresh_sources(dag.study, dag.layout, checked.files)]:
                print(f"medssl: note: {note}", file=sys.stderr, flush=True)
            dag.write_specs()
        return dag


def _say_checked(num_notes: int) -> None:
    """The last line of a dry run: the rest of it is Snakemake's list of jobs."""
    notes = f", {num_notes} note{'s' * (num_notes > 1)} above the list" if num_notes else ""
    print(
        f"medssl: study file, folders and labels checked: no mistakes found{notes}. No job has started.",
        file=sys.stderr,
        flush=True,
    )


def default_study() -> str:
    """The study file if none is named: that of the bundled images, in a clone of the repository.

    It is read here first, because Snakemake names neither line nor mistake of a file that is not YAML.
    """
    with _ending_in_a_sentence():
        if not Path(DEFAULT_STUDY).exists():
            raise StudyError(
                f"no study file is named, and the bundled study, {DEFAULT_STUDY}, is not in this folder. `medssl init FOLDER` "
                "writes a study file for a folder of images; then run `medssl run --config FILE` (snakemake: --configfile FILE). "
                "The bundled study runs in a clone of the repository, which has its images."
            )
        read_yaml(DEFAULT_STUDY, {})
    return DEFAULT_STUDY


@contextmanager
def _ending_in_a_sentence() -> Iterator[None]:
    """A foreseen error, or Ctrl-C, ends the program with one sentence and its exit code."""
    try:
        yield
    except MedsslError as error:
        print(f"medssl: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("medssl: stopped while the study was checked. No job has started.", file=sys.stderr, flush=True)
        raise SystemExit(PreemptedError.exit_code) from None


def command_line(arguments: list[str]) -> str:
    """The typed command without words that may name a machine or a patient: folders, and paths given as `key=value`."""
    return shlex.join(["snakemake", *(_without_folders(word) for word in arguments[1:])])


def _without_folders(word: str) -> str:
    key, mark, value = word.partition("=")
    if mark and "/" in value:
        return f"{key}=…"
    return Path(word).name if word.startswith("/") else word


def steered(workflow: Any, dag: Dag, asked: Any) -> Steering | None:
    """The view of the run; None in a process for a single job, and with options for which no job runs."""
    if not is_main(workflow) or _only_plans(asked):
        return None
    return Steering(dag, {str(word) for word in asked.quiet or ()})


def threads_each(workflow: Any, num_jobs: int) -> int:
    """Threads per training, of `num_jobs`. On a CPU two networks on one core each train faster than one on two cores, and much
    faster on a busy machine. With a GPU, one job uses the GPU and all cores.
    """
    cores = int(workflow.resource_settings.cores or ALL_CORES)
    return cores if any(Path("/dev").glob("nvidia[0-9]*")) else max(1, -(-cores // max(num_jobs, 1)))


def threads_of_data(workflow: Any, num_jobs: int) -> int:
    """Threads of a job that reads images, of `num_jobs` side by side: up to 8. With several, none asks for all cores of this
    machine: it would wait until no training runs, and what it refuses would be known hours later.
    """
    cores = workflow.resource_settings.cores
    return IO_THREADS if cores is None else max(1, min(IO_THREADS, -(-int(cores) // max(num_jobs, 1))))


def shell_prefix(workflow: Any) -> str:
    """The start of every shell line: the command `medssl`, run by this interpreter or by the conda environment of the rule.

    It is not part of the text of a rule, so an environment at another place reruns nothing.
    """
    conda = any(method.name == "CONDA" for method in workflow.deployment_settings.deployment_method)
    if conda and is_installed():
        with _ending_in_a_sentence():
            raise StudyError(
                "--software-deployment-method conda makes environments in which medssl is not installed; it works from a clone "
                "of the repository. Leave it out: every job runs in the environment that medssl is installed in."
            )
    python = f"env PYTHONPATH={shlex.quote(str(workflow.basedir))} python" if conda else shlex.quote(sys.executable)
    return f'medssl() {{{{ exec {python} -m medssl --stop-with-parent "$@"; }}}}; '  # braces twice: Snakemake formats it


def is_main(workflow: Any) -> bool:
    """True in the process that plans; False in one that Snakemake started to run one job."""
    return bool(workflow.is_main_process)


def _only_plans(asked: Any) -> bool:
    return any(getattr(asked, name, None) for name in PLANS)


PLANS = (
    *("dryrun", "lint", "dag", "rulegraph", "filegraph", "d3dag", "summary", "detailed_summary", "list_rules"),
    *("list_target_rules", "list_changes", "list_input_changes", "list_params_changes", "print_compilation", "containerize"),
)
"""Options of Snakemake with which no job runs."""

_held = ExitStack()
atexit.register(_held.close)

DEFAULT_STUDY = "configs/ct.yaml"
IO_THREADS = 8
"""Threads with which reading images is as fast as it gets on usual storage."""
ALL_CORES = 16
"""Cores for a training if Snakemake has no number of cores (the profile of a cluster sets threads)."""
