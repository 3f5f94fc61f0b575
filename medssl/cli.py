"""One command, a verb per stage. Snakemake calls these verbs with a spec file; a person may do the same."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import medssl
from medssl.core import cluster, gpus, launch, process
from medssl.core.errors import MedsslError, PreemptedError, StudyError, TooManyRefusalsError
from medssl.core.failure import Failure
from medssl.core.files import file_to_write, folder_to_write, refuse_within
from medssl.core.job import Spec, job
from medssl.core.shown import leave_the_terminal

if TYPE_CHECKING:
    from medssl.api.new_images import NewImages

app = typer.Typer(
    help="Self-supervised pre-training on CT and MR. Begin with `medssl init FOLDER` and `medssl run`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SpecPath = Annotated[Path, typer.Argument(help="spec file, results/<study>/specs/<stage>/<name>.json")]
Log = Annotated[Path | None, typer.Option(help="append the log to this file")]
Force = Annotated[bool, typer.Option("--force", help="take images that are unlike those that were learnt from, with a warning")]
Threads = Annotated[int, typer.Option(min=1, help="threads this job may use")]


def _run(stage: str, step: str, spec_path: Path, log: Path | None, threads: int, **arguments: Any) -> None:
    """Run one step of a stage; its module is imported only now."""
    spec = Spec.read(spec_path)
    if spec.stage != stage:
        raise StudyError(
            f"{spec_path} is a spec of stage {spec.stage!r}, expected {stage!r}: run `medssl {spec.stage} {spec_path}`."
        )
    _require_step(spec, step, spec_path)
    # ingest has nothing for more: its arithmetic is in reading processes, each slice in one thread
    limit_threads(1 if stage == "ingest" else threads)
    part = "-".join(str(value) for value in arguments.values())
    margin_s = spec.machine.stop_before_deadline_s
    if log is not None:
        leave_the_terminal(spec.layout.output(log), remarks=spec.layout.of_log("progress", log, ".txt"))
    failure = Failure.of(spec, log)
    started_s = time.time()
    first = launch.rank(spec) == 0
    try:
        with cluster.time_limit(margin_s, warn=stage == "finetune"), gpus.lease(_gpus(spec)):
            launch.spread(spec, threads)
            with job(spec, part=part, log_path=log, threads=threads, joins=not first) as work:
                if not work.restore():
                    getattr(importlib.import_module(f"medssl.{stage}.run"), step)(work, **arguments)
        failure.forget()  # of a try before this one
    except MedsslError as error:
        if not first:
            if isinstance(error, PreemptedError):
                launch.let_the_first_end()
            raise
        _append(log, f"stopped: {error}")
        if isinstance(error, PreemptedError) and cluster.requeue(margin_s, started_s):
            _append(log, "the time of this SLURM job is nearly up: it was put back into the queue")
        failure.write(error.exit_code, str(error))
        raise
    except KeyboardInterrupt:
        stopped = PreemptedError(f"stopped by SIGINT. {LEFT_BEHIND.get(stage, 'It starts again.')}")
        _append(log, f"stopped: {stopped}")
        failure.write(stopped.exit_code, str(stopped))
        raise stopped from None
    except Exception as error:
        # An unexpected message may quote a file or a header, which ingest must keep to itself.
        trace = traceback.format_tb(error.__traceback__)
        said = type(error).__name__ + ("" if stage == "ingest" else f": {error}")
        _append(log, "".join(trace) + said)
        failure.write(1, f"an unexpected error: {said}", trace=[*trace[-1].splitlines(), said])
        raise


LEFT_BEHIND = {"ingest": "The volumes it has made are kept.", "reduce": "The volumes it has described are kept."}
"""Results that a stopped job keeps for the next try, for stages that do not report it themselves."""


def _require_step(spec: Spec, step: str, path: Path) -> None:
    """A spec is of one step where its stage has several: its name says which.

    Raises:
        StudyError: it is of another one.
    """
    last = spec.name.rpartition("/")[2] if "/" in spec.name else ""
    wanted: tuple[str, ...]
    if spec.stage == "reduce":
        wanted = (last,) if last in ("describe", "leakage") else ("run",)
    elif spec.stage == "ingest":
        wanted = ("labels",) if last == "labels" else ("scan", "convert", "merge")
    else:
        return
    if step not in wanted:
        steps = " or ".join(wanted)
        raise StudyError(f"{path} is a spec of step {steps}, got {step}: run `medssl {spec.stage} {path} --step {wanted[0]}`.")


def _gpus(spec: Spec) -> int:
    """How many GPUs a job uses where there are some; on several nodes SLURM alone hands them out."""
    return spec.machine.processes if spec.machine.gpus and spec.machine.nodes == 1 else 0


def limit_threads(threads: int) -> None:
    """Hold numerical libraries to the threads of the job; must run before they are imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(threads)


def _version(asked: bool) -> None:
    if asked:
        print(f"medssl {medssl.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="print the version", callback=_version, is_eager=True)] = False,
    stop_with_parent: Annotated[bool, typer.Option(help="end when the process that started this one ends", hidden=True)] = False,
) -> None:
    """What holds for every verb."""
    if stop_with_parent:
        process.stop_with_parent()


@app.command()
def ingest(
    spec: SpecPath,
    step: Annotated[str, typer.Option(help="scan, convert, merge or labels")] = "scan",
    shard: Annotated[int, typer.Option(help="which shard to convert")] = 0,
    log: Log = None,
    threads: Threads = 1,
) -> None:
    """Find the images of a source and convert them: right, or refused with a reason."""
    if step not in ("scan", "convert", "merge", "labels"):
        raise typer.BadParameter(f"step is scan, convert, merge or labels, got {step!r}")
    _run("ingest", step, spec, log, threads, **({"shard": shard} if step == "convert" else {}))


@app.command()
def prepare(spec: SpecPath, log: Log = None, threads: Threads = 1) -> None:
    """Make what the network sees: arrays on a common orientation, slices, split, fingerprint."""
    _run("prepare", "run", spec, log, threads)


@app.command()
def reduce(
    spec: Annotated[Path, typer.Argument(help="spec file, results/<study>/specs/reduce/<name>.json; with --preview, a source")],
    step: Annotated[str, typer.Option(help="describe, run or leakage")] = "run",
    log: Log = None,
    threads: Threads = 1,
    preview: Annotated[
        Path | None, typer.Option(help="look before a study: write the pictures of a decision about a source to this folder")
    ] = None,
    reducer: Annotated[str, typer.Option(help="with --preview: which reducer, such as hash, ssim or entropy")] = "hash",
    threshold: Annotated[float | None, typer.Option(help="with --preview: its threshold")] = None,
) -> None:
    """Decide which slices are worth training on."""
    if preview is not None:
        return _preview(spec, preview, {"reducer": reducer, "threshold": threshold}, threads)
    if step not in ("describe", "run", "leakage"):
        raise typer.BadParameter(f"step is describe, run or leakage, got {step!r}")
    _run("reduce", step, spec, log, threads)


def _preview(source: Path, out: Path, arm: dict[str, Any], threads: int) -> None:
    """Ingest and prepare a source in a folder of its own, decide about its slices, and keep the pictures."""
    limit_threads(threads)
    from medssl.api.new_images import ingest_and_prepare
    from medssl.reduce import run as reducing
    from medssl.study.one_source import reduce_specs_of, specs_of

    folder_to_write(out)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=out) as folder:
        ingest, prepare = specs_of(source, Path(folder), {}, {})
        describe, decide = reduce_specs_of(prepare, arm)
        ingest_and_prepare(ingest, prepare, threads)
        for step, work_spec in ((reducing.describe, describe), (reducing.run, decide)):
            with job(work_spec, threads=threads) as work:
                step(work)
        summary = json.loads((Path(decide.out) / "summary.json").read_text())
        made = [path for path in sorted(Path(decide.out).iterdir()) if path.suffix in (".png", ".svg")]
        for path in made:
            path.replace(out / path.name)
    print(f"{summary['reducer']}, threshold {summary['threshold']}: {summary['kept']} of {summary['slices']} slices kept")
    curve = summary.get("curve", {"threshold": [], "kept_frac": []})
    for at, kept in list(zip(curve["threshold"], curve["kept_frac"], strict=True))[:: max(len(curve["threshold"]) // 8, 1)]:
        print(f"  at {at:g} about {100 * kept:.0f} %")
    for path in made:
        print(out / path.name)


@app.command()
def pretrain(spec: SpecPath, log: Log = None, threads: Threads = 1) -> None:
    """Pre-train an encoder without labels."""
    _run("pretrain", "run", spec, log, threads)


@app.command()
def finetune(spec: SpecPath, log: Log = None, threads: Threads = 1) -> None:
    """Fit the task from each start, with few labels and many."""
    _run("finetune", "run", spec, log, threads)


@app.command()
def evaluate(spec: SpecPath, log: Log = None, threads: Threads = 1) -> None:
    """Score the test predictions, with intervals and paired comparisons."""
    _run("evaluate", "run", spec, log, threads)


@app.command()
def report(spec: SpecPath, log: Log = None, threads: Threads = 1) -> None:
    """Write the page."""
    _run("report", "run", spec, log, threads)


@app.command()
def check(
    source: Annotated[Path, typer.Argument(help="folder of DICOM, NIfTI or images, or one file")],
    table: Annotated[Path | None, typer.Option(help="write what became of every file, with its ids, to this TSV table")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON, for programs")] = False,
    id_key: Annotated[
        Path | None, typer.Option(help="key of the ids, as in the study file; else .medssl/id_key, if it is there")
    ] = None,
    name: Annotated[str, typer.Option(help="the source's name in the study, on which ids made of file names depend")] = "check",
) -> None:
    """Say what a source holds and what would be refused, without running a study. It names files, for you alone."""
    from medssl.core.text_table import write_rows
    from medssl.ingest.checking import check_source
    from medssl.ingest.items import COLUMNS
    from medssl.ingest.summary import as_values, screen_lines

    if table is not None:
        refuse_within(table, source)
    checked = check_source(source, id_key=None if id_key is None else str(id_key), name=name)
    if table is not None:
        write_rows(file_to_write(table), COLUMNS, ([*row.values()] for row in checked.items))
    for line in [json.dumps(as_values(checked), indent=1)] if as_json else screen_lines(checked):
        print(line)
    if not checked.series:
        raise TooManyRefusalsError("everything in this source is refused; the lines above say why.")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="folder of DICOM, NIfTI or images, or one file")],
    out: Annotated[Path | None, typer.Option(help="the study file to write; else <name of the folder>.yaml, here")] = None,
) -> None:
    """Look at a folder as `check` does, and write a study file for it that runs as it is. It overwrites nothing."""
    from medssl.core.files import write_text
    from medssl.ingest.checking import check_source
    from medssl.ingest.found import found_in
    from medssl.ingest.summary import screen_lines
    from medssl.study.init import file_name_for, proposed_study, refuse_unusable_folder

    file = Path(file_name_for(str(folder))) if out is None else out
    if file.exists():
        raise StudyError(f"{file} exists, and is not overwritten. Name another file with --out.")
    refuse_unusable_folder(str(folder))
    refuse_within(file, folder)
    checked = check_source(folder)
    for line in screen_lines(checked):
        print(line)
    if not checked.series:
        raise TooManyRefusalsError("everything in this source is refused; the lines above say why.")
    text = proposed_study(str(folder), found_in(folder, checked), str(file))
    write_text(file_to_write(file), text)
    print(f"\n{file}\n\n{text}", end="")


@app.command()
def export(
    run: Annotated[
        Path, typer.Argument(help="pre-training run, 4_pretrain/<cohort>/<run>; for onnx 5_finetune/<task>/models/<start>")
    ],
    library: Annotated[str, typer.Option(help="hf, monai, nnunet, timm or torchvision; of a fine-tuned model: onnx")],
    out: Annotated[Path, typer.Option(help="folder to write to")],
) -> None:
    """Write an encoder's weights for another library, or a fine-tuned model as ONNX."""
    if library == "onnx":
        from medssl.api.onnx_file import export_onnx

        written, steps = export_onnx(run, folder_to_write(out)), ""
    else:
        from medssl.nn.transfer import export as write
        from medssl.nn.transfer import first_steps

        written = write(run, library, folder_to_write(out))
        steps = first_steps(out)
    for path in written:
        print(path)
    print(steps, end="")


@app.command()
def convert(
    foreign: Annotated[Path, typer.Argument(help="a .pth file of another program")],
    out: Annotated[Path, typer.Option(help="the safetensors file to write")],
    strip: Annotated[str, typer.Option(help="prefix to take off the tensor names")] = "",
    key: Annotated[str, typer.Option(help="which entry of the file holds the weights")] = "",
) -> None:
    """Turn foreign weights into safetensors, tensors only, in a process of its own."""
    from medssl.nn.transfer import convert as write

    print(write(foreign, file_to_write(out), strip=strip, key=key))


@app.command()
def embed(
    source: Annotated[
        Path, typer.Argument(help="new DICOM, NIfTI or images (a folder), an NPZ file, or a prepared source, 2_prepare/<source>")
    ],
    run: Annotated[Path, typer.Argument(help="folder of a pre-training run, 4_pretrain/<cohort>/<run>")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the Parquet table to write")],
    threads: Threads = 1,
    force: Force = False,
) -> None:
    """Write the features of images as a table."""
    limit_threads(threads)
    from medssl.api.new_images import new_images
    from medssl.nn.transfer import embed as write
    from medssl.nn.transfer import read_contract, sections_of

    contract = read_contract(run)
    refuse_within(out, source)
    file_to_write(out)
    if (source / "samples.parquet").is_file():
        print(f"{write(source, run, out, force=force)} rows in {out}")
        return
    with new_images(source, *sections_of(contract), beside=out.parent, threads=threads, force=force) as new:
        print(f"{write(new.prepared, run, out, force=force)} rows in {out}")
    _write_ledgers(new, *(out.with_suffix(f".{name}.tsv") for name in ("files", "rejected")))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="folder of a fine-tuned model, 5_finetune/<task>/models/<start>")],
    source: Annotated[Path, typer.Argument(help="new DICOM, NIfTI or images (a folder), or an NPZ file")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to write to")],
    threads: Threads = 1,
    force: Force = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the answers that the folder holds")] = False,
) -> None:
    """Apply a fine-tuned model to new images: masks on their own grids, of DICOM also as DICOM, or a table of probabilities."""
    limit_threads(threads)
    from medssl.api.predicting import predict as write

    written, said = write(model, source, out, threads=threads, force=force, overwrite=overwrite)
    for path in written:
        print(path)
    for sentence in said:
        print(f"medssl: note: {sentence}", file=sys.stderr)


def _write_ledgers(new: NewImages, names_path: Path, rejected_path: Path) -> None:
    """Which file each id is of, and what was refused."""
    from medssl.api.new_images import FILE_COLUMNS, files_row
    from medssl.artefacts.series import REJECTED
    from medssl.core.text_table import write_rows

    write_rows(names_path, FILE_COLUMNS, map(files_row, new.origins))
    REJECTED.write_rows(rejected_path, new.rejected)
    print(names_path)
    if new.rejected:
        print(f"{sum(row['num_files'] for row in new.rejected)} files refused, see {rejected_path}", file=sys.stderr)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="report.json of a study")],
    second: Annotated[Path, typer.Argument(help="report.json of another")],
    out: Annotated[Path, typer.Option(help="the page to write")] = Path("compare.html"),
) -> None:
    """Put two studies side by side."""
    from medssl.report.run import compare as write

    write(first, second, file_to_write(out))
    print(out)


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=PASSED_ON, options_metavar="[TARGET]... [--config STUDY_FILE] [OPTIONS OF SNAKEMAKE]")
def run(context: typer.Context) -> None:
    """Run a study: print the line of Snakemake that does it, and become that program.

    Targets are `pretrain_<cohort>`, `report` and files of results; everything is made where none is named. `--config FILE` names
    the study file, and `medssl init FOLDER` writes one. Everything else goes to Snakemake as it is: `-n` to see what would run,
    `--cores 4`, `--profile slurm`; `snakemake --help` lists it all.
    """
    import shlex

    from medssl.study.last_lines import TYPED
    from medssl.study.running import program, snakemake_line

    line = snakemake_line(context.args)
    command, name = program()
    print(f"{name} {shlex.join(line)}", file=sys.stderr, flush=True)
    os.environ[TYPED] = shlex.join(["medssl", "run", *context.args])
    os.execv(command[0], [*command, *line])  # noqa: S606  (no shell, and its exit code is ours)


@app.command()
def specs(study_file: Annotated[Path, typer.Argument(help="study file")]) -> None:
    """Check a study file and write its specs, to run stages by hand."""
    from medssl.study.sources import refresh_sources

    dag, files = _checked(study_file)
    for note in refresh_sources(dag.study, dag.layout, files):
        print(f"medssl: note: {note}", file=sys.stderr)
    dag.write_specs()
    print(dag.layout.root / "specs")


@app.command()
def plan(
    study_file: Annotated[Path, typer.Argument(help="study file")],
    threads: Threads = 1,
    limit_s: Annotated[float, typer.Option(min=1, help="seconds after which the probe is stopped")] = 600.0,
) -> None:
    """Say what a study will take here: hours, memory, disk, and the largest batch, from a piece of it that is run."""
    import shutil

    from medssl.study.planning import table
    from medssl.study.probe import costs
    from medssl.study.time_left import PLAN, write_plan

    dag, _ = _checked(study_file)
    study = dag.study
    found, batches = costs(study, threads, limit_s)
    hours = {(cost.stage, cost.name): cost.hours for cost in found if cost.hours is not None}
    write_plan(Path(dag.layout.state(PLAN, "")), hours)
    place = next(path for path in [Path(study.output).resolve(), *Path(study.output).resolve().parents] if path.exists())
    print(table(found, shutil.disk_usage(place).free / 1e6, len(list(dag.specs()))))
    for name, batch in batches.items():
        print(f"pretrain.{name}: batch_size {study.pretrain[name].batch_size}; the largest that fits one device here: {batch}")


def _checked(study_file: Path) -> tuple[Any, Any]:
    """The jobs of a study that can work, and the files of its sources; what its user should know is said."""
    from medssl.study.checks import check_study
    from medssl.study.dag import Dag
    from medssl.study.file import read_study

    study, places = read_study(files=[str(study_file)])
    dag = Dag(study)
    checked = check_study(dag, places)
    for note in checked.notes:
        print(f"medssl: note: {note}", file=sys.stderr)
    return dag, checked.files


@app.command()
def clean(
    study_file: Annotated[Path, typer.Argument(help="the study file whose results are meant")],
    yes: Annotated[bool, typer.Option("--yes", help="remove without asking")] = False,
) -> None:
    """Free disk space: list what of a study can be made again from its sources, ask, and remove it.

    These are the converted images (volumes and arrays), caches, what killed jobs left, and what is kept of runs and fits that
    the study file no longer has. Encoders, models, tables, predictions and pages stay. It is for a study that is finished: its
    next run makes the images again first.
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
            f"The next run of snakemake on this study makes these first, and then trains again what rests on them: "
            f"{again.count('pretrain')} finished pre-trainings and {again.count('finetune')} tasks of fine-tuning."
        )
    elif {VOLUMES, ARRAYS} & {kind.what for kind in kinds}:
        print("The next run of snakemake on this study makes volumes and arrays again first; it repeats no training.")
    if not yes:
        typer.confirm(f"Remove {total_mb:.1f} MB below {root}?", abort=True)
    remove(root, kinds)
    print(f"removed {total_mb:.1f} MB")


@app.command()
def schema() -> None:
    """Print the JSON schema of the study file, for editors."""
    from medssl.study.schema import study_schema

    print(json.dumps(study_schema(), indent=1))


def _append(log: Path | None, text: str) -> None:
    if log is not None:
        with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
            print(text, file=file)


def main() -> None:
    """Run the command line; an error we foresaw is one sentence and its exit code."""
    try:
        app(standalone_mode=True)
    except MedsslError as error:
        print(f"medssl: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
