"""Stage pretrain: read samples and the reduction's decision, train, write encoder, contract, curve and a picture of the views."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from medssl.artefacts.encoder import CURVE, EMBEDDINGS
from medssl.artefacts.labels import LABELS, with_given_labels
from medssl.artefacts.samples import SAMPLES
from medssl.core import signals
from medssl.core.errors import CorruptArtefactError, MedsslError, StudyError
from medssl.core.files import canonical_json, sha256_file, sha256_text, writing
from medssl.core.job import LIVE, Job
from medssl.core.launch import rank
from medssl.core.progress import progress
from medssl.core.scratch import local_copy
from medssl.pretrain.options import RunOptions, TrainingOptions, WatchOptions, not_installed, records_of

if TYPE_CHECKING:  # torch and its dependents are imported only when a job runs
    import torch

    from medssl.nn.loading import Samples
    from medssl.pretrain.plan import Plan

PICTURED = 8
FIRST_COLUMNS = ("epoch", "step", "loss", "lr", "images_per_s", "effective_rank", "rankme", "alignment", "uniformity")


def run(job: Job) -> None:
    """Train the encoder of one run; a stopped run resumes where it was.

    Raises:
        PreemptedError: stopped by a signal or the job's deadline, after saving.
        NotFiniteError, OutOfMemoryError, StudyError: with what to do.
    """
    options = job.options(RunOptions)
    watched = WatchOptions.model_validate(job.spec.watch)
    if missing := not_installed(watched.loggers):
        raise StudyError(". ".join(missing) + ".")
    import torch

    from medssl.nn.device import described
    from medssl.nn.state import StateFolder, under
    from medssl.nn.weights import save_tensors
    from medssl.pretrain.contract import contract

    torch.set_num_threads(job.threads)
    where = _device(options)
    plan = _plan(job, options, watched)
    pictures = job.path("pictures")
    first = rank(job.spec) == 0
    if first and not any(plan.state.glob("*.json")):
        for old in pictures.glob("epoch-*.png"):  # of an earlier run with other options
            old.unlink()
    if first:
        _write_views(plan, job.path("views.png"))
    error = _launch(job, plan, where)
    if error is not None:
        raise error
    if not first:
        return  # only the first process of the job writes the files

    loaded = StateFolder(plan.state).load()
    encoder = under("encoder", loaded[1]) if loaded is not None else {}
    if loaded is None or not encoder:
        raise CorruptArtefactError(
            f"the final state of {job.spec.name} is missing below {plan.state}. Run the same command again."
        )
    parts = under("parts", loaded[1])
    save_tensors(job.path("encoder.safetensors"), encoder)
    save_tensors(job.path("parts.safetensors"), parts)
    CURVE.write(job.path("curve.tsv"), _curve(loaded[2]["rows"]))
    contract(plan, options, job.spec, encoder, parts).write(job.path("contract.json"))
    EMBEDDINGS.write(job.path("embeddings.parquet"), _embeddings(plan, job.path("encoder.safetensors"), where))
    job.wrote(*(job.path(f"{name}.safetensors") for name in ("encoder", "parts")))
    job.wrote(*(job.path(name) for name in ("contract.json", "curve.tsv", "embeddings.parquet", "views.png")))
    drawn = sorted(pictures.glob("epoch-*.png"))
    job.wrote(*drawn)
    job.notes |= {"device": described(where), "steps": loaded[0], "samples": len(plan.samples), "pretrain_seed": options.seed}
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        job.notes |= {"gpu_peak_mb": round(torch.cuda.max_memory_reserved() / 1e6)}
    job.write_receipt()
    StateFolder(plan.state).clear()


def _device(options: TrainingOptions) -> torch.device:
    """The device on which the run's processes train.

    Raises:
        StudyError: the study asks for missing devices, or for a precision that the CPU does not have.
    """
    from medssl.nn.device import device

    return device(
        options.device,
        option="pretrain.device",
        count=options.devices,
        deterministic=options.deterministic,
        precision=options.precision,
    )


def _plan(job: Job, options: RunOptions, watched: WatchOptions) -> Plan:
    """The run's plan, from inputs whose bytes match their receipts.

    Each set of options and inputs has its own folder of states.
    """
    from medssl.nn.loading import read_samples
    from medssl.pretrain.loggers import Asked, Named
    from medssl.pretrain.plan import Plan
    from medssl.pretrain.records import with_records

    inputs = job.spec.inputs
    labels = {source: job.read(path) for source, path in inputs.get("labels", {}).items()}
    records = {source: {c: job.read(path) for c, path in found.items()} for source, found in inputs.get("records", {}).items()}
    before = {name: job.read(path) for name, path in inputs.get("init_run", {}).items()}
    known = [*labels.values(), *(path for found in records.values() for path in found.values())]
    files = [*map(job.read, [*inputs["samples"], *inputs["volumes"], inputs["keep"]]), *known, *before.values()]
    content = sha256_text(canonical_json([job.hash_of(path) or sha256_file(path) for path in files]))[:16]
    samples = read_samples(inputs["samples"], inputs["volumes"], keep=inputs["keep"])
    if labels:
        samples = _with_labels(samples, inputs["samples"], labels)
    if columns := records_of(options):
        samples = with_records(samples, columns, inputs["samples"], records)
    named = Named.of(job.spec.study, job.spec.name, job.spec.hash, options)
    used = set(samples.volume.tolist())
    volumes = [replace(v, array=local_copy(job, v.array)) if number in used else v for number, v in enumerate(samples.volumes)]
    return Plan(
        options,
        options.seed,
        replace(samples, volumes=tuple(volumes)),
        state=Path(job.spec.layout.state("pretrain", f"{job.spec.hash}-{content}")),
        events=job.path(LIVE) if watched.tensorboard else None,
        loggers=Asked(tuple(watched.loggers), job.path(LIVE), named) if watched.loggers else None,
        before=before,
    )


def _with_labels(samples: Samples, tables: list[str], labels: dict[str, Path]) -> Samples:
    """The samples with the content of their sources' label files, for an objective that reads labels.

    tables: those of the samples; labels: by source.
    """
    said: dict[str, str | None] = {}
    for path in tables:
        table, source = SAMPLES.read(path), Path(path).parent.name
        if source in labels:
            table = with_given_labels(table, LABELS.read(labels[source]))
        said |= dict(zip(table["sample_id"], table["label"].where(table["label"].notna(), None), strict=True))
    return replace(samples, label=tuple(said[name] for name in samples.ids))


def _embeddings(plan: Plan, weights: Path, where: torch.device) -> pd.DataFrame:
    """What the finished encoder makes of some of the run's samples."""
    from medssl.nn.backbone import build
    from medssl.nn.weights import load_encoder
    from medssl.pretrain.embedding import embedding_table

    options = plan.options
    backbone = build(options.backbone.name, options.backbone.options, options.spatial_dims, plan.samples.num_channels)
    load_encoder(weights, backbone)
    return embedding_table(backbone, plan.samples, plan.size, where)


def _curve(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The curve, with the columns that every objective has first."""
    table = pd.DataFrame(rows)
    first = [name for name in FIRST_COLUMNS if name in table]
    return table[first + sorted(str(name) for name in table if name not in first)]


def _launch(job: Job, plan: Plan, where: torch.device) -> MedsslError | None:
    """Train in this process, or in one process per device."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    from medssl.nn.stepping import FABRIC, precision_on
    from medssl.pretrain.loop import train

    options = plan.options
    many = options.devices * options.nodes > 1
    # On one node this process starts the others, also inside a SLURM job; on several nodes srun or torchrun did.
    start: Literal["spawn", "popen"] = "spawn" if options.nodes == 1 else "popen"
    fabric = Fabric(
        accelerator=where.type,
        devices=options.devices,
        num_nodes=options.nodes,
        precision=FABRIC[precision_on(where, options.precision)],
        # buffers are equal on all ranks by construction: statistics, queues and memories are computed from the whole batch
        strategy=DDPStrategy(broadcast_buffers=False, start_method=start) if many else "auto",
        plugins=[_environment(options.nodes)],
    )
    if not many:
        with job.progress("", options.epochs, "images") as bar:
            return train(fabric, plan, bar, job.log, partial(_keep_picture, job.path("pictures")))
    with signals.passed_on():
        # one object, because Fabric looks into arguments and refuses frozen dataclasses
        threads = max(1, job.threads // options.devices)  # those of a node are shared by its processes
        keep_picture = partial(_keep_picture, job.path("pictures"))
        title = f"pretrain {job.spec.name}"
        shown = None if job.shown is None else job.shown.resolve()
        work = partial(
            _train_rank, plan=plan, title=title, threads=threads, keep_picture=keep_picture, log_path=job.log_path, shown=shown
        )
        result: MedsslError | None = fabric.launch(work)
    return result


def _environment(nodes: int) -> Any:
    """How the processes of a run find one another."""
    from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

    if nodes == 1:
        return LightningEnvironment()
    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else SLURMEnvironment(auto_requeue=False)


def _train_rank(
    fabric: Any,
    plan: Plan,
    title: str,
    threads: int,
    keep_picture: Callable[[int, np.ndarray], None],
    log_path: Path | None = None,
    shown: Path | None = None,
) -> MedsslError | None:
    """One process's part; rank 0 shows the progress and writes the job's log."""
    import torch

    from medssl.pretrain.loop import train

    torch.set_num_threads(threads)
    first = fabric.is_global_zero
    if not first:
        sys.stderr = open("/dev/null", "w")  # noqa: SIM115  (for the life of this process)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(log_path, "a", encoding="utf-8")) if first and log_path is not None else None
        bar = stack.enter_context(progress(title, 1, "images", log=log, shown=shown if first else None))
        return train(fabric, plan, bar, lambda line: print(line, file=log or sys.stderr, flush=True), keep_picture)


def _write_views(plan: Plan, target: Path) -> None:
    """The first samples of the run's first batch as the objective will see them: a column each, a row per view."""
    from medssl.nn.views import Views
    from medssl.pretrain.picture import grid

    objective, options, count = plan.objective(), plan.options, len(plan.samples)
    # a batch of the run's own size, as another may not be divisible; if there are too few samples, the loop says so
    unit = options.devices * options.nodes * options.accumulate * objective.together
    rows = objective.batches(plan.seed, 0, min(options.batch_size, count - count % unit) or count)[0]
    batch = plan.reader()[(0, rows[:PICTURED])]
    batch.keys = objective.view_keys(batch)
    _write_png(target, grid(Views(options.views, objective.crops(plan.size), plan.samples, seed=plan.seed)(batch)))


def _keep_picture(folder: Path, epoch: int, pixels: np.ndarray) -> None:
    """Save an objective's picture at the end of an epoch."""
    _write_png(folder / f"epoch-{epoch + 1:05d}.png", pixels)


def _write_png(target: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with writing(target) as temporary:
        Image.fromarray(np.asarray(pixels)).save(temporary, format="PNG")
