"""The verbs of the seven stages: each runs one step, as its spec file describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.cli.images import preview as write_preview
from medssl.cli.parameters import Log, SpecPath, Threads
from medssl.cli.step import run_step


def ingest(
    spec: SpecPath,
    step: Annotated[str, typer.Option(help="scan, convert, merge, labels or record")] = "scan",
    shard: Annotated[int, typer.Option(help="number of the shard to convert")] = 0,
    log: Log = None,
    threads: Threads = 1,
) -> None:
    """Find the images of a source and convert or refuse them."""
    if step not in ("scan", "convert", "merge", "labels", "record"):
        raise typer.BadParameter(f"step is scan, convert, merge, labels or record, got {step!r}")
    run_step("ingest", step, spec, log, threads, **({"shard": shard} if step == "convert" else {}))


def prepare(spec: SpecPath, log: Log = None, threads: Threads = 1) -> None:
    """Make arrays, slices, the split and the fingerprint of a source."""
    run_step("prepare", "run", spec, log, threads)


def reduce(
    spec: Annotated[
        Path, typer.Argument(help="spec file, results/<study>/specs/reduce/<name>.json; or a folder, with --preview")
    ],
    step: Annotated[str, typer.Option(help="describe, run or leakage")] = "run",
    log: Log = None,
    threads: Threads = 1,
    preview: Annotated[
        Path | None, typer.Option(help="try a reducer on a folder of images, without a study; folder for its pictures")
    ] = None,
    reducer: Annotated[str, typer.Option(help="with --preview: the reducer, such as hash, ssim or entropy")] = "hash",
    threshold: Annotated[float | None, typer.Option(help="with --preview: its threshold")] = None,
) -> None:
    """Choose the slices that pre-training sees."""
    if preview is not None:
        return write_preview(spec, preview, {"reducer": reducer, "threshold": threshold}, threads)
    if step not in ("describe", "run", "leakage"):
        raise typer.BadParameter(f"step is describe, run or leakage, got {step!r}")
    run_step("reduce", step, spec, log, threads)


def pretrain(spec: SpecPath, log: Log = None, threads: Threads = 1) -> None:
    """Pre-train an encoder without labels."""
    run_step("pretrain", "run", spec, log, threads)


def finetune(spec: SpecPath, log: Log = None, threads: Threads = 1) -> None:
    """Train a task from each start, on few labels and on many."""
    run_step("finetune", "run", spec, log, threads)


def evaluate(spec: SpecPath, log: Log = None, threads: Threads = 1) -> None:
    """Score test predictions with intervals and paired tests."""
    run_step("evaluate", "run", spec, log, threads)


def report(spec: SpecPath, log: Log = None, threads: Threads = 1) -> None:
    """Write the page of the study or of a cohort."""
    run_step("report", "run", spec, log, threads)
