"""Stage pretrain: read samples and what a reduction kept, train, leave encoder, contract, curve and a picture of the views."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medssl.artefacts.labels import with_given_labels
from medssl.core import tables
from medssl.core.errors import CorruptArtefactError, MedsslError, StudyError
from medssl.core.files import canonical_json, sha256_file, sha256_text, write_json, writing
from medssl.core.job import Job
from medssl.core.launch import rank
from medssl.core.progress import progress
from medssl.core.scratch import near
from medssl.pretrain.contract import contract
from medssl.pretrain.options import PretrainOptions

if TYPE_CHECKING:
    from medssl.nn.loading import Samples

PICTURED = 8
FIRST_COLUMNS = ("epoch", "step", "loss", "lr", "images_per_s", "effective_rank", "rankme", "alignment", "uniformity")
PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def run(job: Job) -> None:
    """Train the encoder of one run; a stopped run goes on where it was.

    Raises:
        PreemptedError: stopped by a signal or the job's deadline, after saving.
        NotFiniteError, OutOfMemoryError, StudyError: with what to do.
    """
    options = dict(job.spec.settings)
    seed = int(options.pop("pretrain_seed"))
    options.pop("licences", None)  # for the contract
    options.pop("init_sha256", None)  # of the file, whose bytes are hashed again below
    settings = PretrainOptions(**options)
    # torch and what needs it is imported only now
    import torch

    from medssl.nn.loading import read_samples
    from medssl.nn.state import StateFolder, under
    from medssl.nn.weights import save_tensors
    from medssl.pretrain.loop import Plan

    torch.set_num_threads(job.threads)
    inputs = job.spec.inputs
    tables_read = [job.read(path) for path in [*inputs["samples"], *inputs["volumes"], inputs["keep"]]]
    samples = read_samples(inputs["samples"], inputs["volumes"], keep=inputs["keep"])
    if "labels" in inputs:
        samples = _with_labels(job, samples)
    used = set(samples.volume.tolist())
    volumes = [replace(v, array=near(job, v.array)) if number in used else v for number, v in enumerate(samples.volumes)]
    samples = replace(samples, volumes=tuple(volumes))
    hashes = [sha256_file(path) for path in [*tables_read, *inputs.get("labels", {}).values()]]
    if settings.init_weights is not None:
        hashes.append(sha256_file(_existing(settings.init_weights)))
    before = {name: job.read(path) for name, path in inputs.get("init_run", {}).items()}
    hashes += [sha256_file(path) for path in before.values()]
    state = Path(job.spec.layout.state("pretrain", f"{job.spec.hash}-{sha256_text(canonical_json(hashes))[:16]}"))
    plan = Plan(settings, seed, samples, state, job.path("events") if settings.tensorboard else None, before)

    pictures = job.path("pictures")
    first = rank(job.spec) == 0
    if first and not any(state.glob("*.json")):
        for old in pictures.glob("epoch-*.png"):  # of an earlier run with other options
            old.unlink()
    if first:
        _write_views(plan, job.path("views.png"))
    error = _launch(job, plan)
    if error is not None:
        raise error
    if not first:
        return  # the files are written by the first process of the job alone

    loaded = StateFolder(state).load()
    encoder = under("encoder", loaded[1]) if loaded is not None else {}
    if loaded is None or not encoder:
        raise CorruptArtefactError(f"the final state of {job.spec.name} is missing below {state}. Run the same command again.")
    save_tensors(job.path("encoder.safetensors"), encoder)
    save_tensors(job.path("parts.safetensors"), under("parts", loaded[1]))
    tables.write_tsv(job.path("curve.tsv"), _curve(loaded[2]["rows"]))
    write_json(job.path("contract.json"), contract(plan, encoder, job.spec))
    job.wrote(*(job.path(f"{name}.safetensors") for name in ("encoder", "parts")))
    job.wrote(*(job.path(name) for name in ("contract.json", "curve.tsv", "views.png")))
    drawn = sorted(pictures.glob("epoch-*.png"))
    job.wrote(*drawn)
    job.notes |= {"device": _device(settings), "steps": loaded[0], "samples": len(samples), "pretrain_seed": seed}
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        job.notes |= {"gpu_peak_mb": round(torch.cuda.max_memory_reserved() / 1e6)}
    job.write_receipt()
    StateFolder(state).clear()


def _with_labels(job: Job, samples: Samples) -> Samples:
    """The samples with what the label files of their sources say, for an objective that reads labels."""
    said: dict[str, str | None] = {}
    for path in job.spec.inputs["samples"]:
        table, source = tables.read_parquet(path), Path(path).parent.name
        if source in job.spec.inputs["labels"]:
            table = with_given_labels(table, tables.read_parquet(job.read(job.spec.inputs["labels"][source])))
        said |= dict(zip(table["sample_id"], table["label"].where(table["label"].notna(), None), strict=True))
    return replace(samples, label=tuple(said[name] for name in samples.ids))


def _curve(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The curve, columns that every objective has first."""
    table = pd.DataFrame(rows)
    first = [name for name in FIRST_COLUMNS if name in table]
    return table[first + sorted(str(name) for name in table if name not in first)]


def _launch(job: Job, plan: Any) -> MedsslError | None:
    """Train in this process, or in one process per device."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    from medssl.pretrain.loop import train

    settings = plan.settings
    device = _device(settings)
    many = settings.devices * settings.nodes > 1
    # On one node this process starts the others, also inside a SLURM job; over nodes srun or torchrun did.
    start = {"start_method": "spawn"} if settings.nodes == 1 else {}
    fabric = Fabric(
        accelerator="cuda" if device.startswith("cuda") else "cpu",
        devices=settings.devices,
        num_nodes=settings.nodes,
        precision=PRECISION[settings.precision],
        # buffers are equal on all ranks by construction: statistics, queues and memories are computed from the whole batch
        strategy=DDPStrategy(broadcast_buffers=False, **start) if many else "auto",
        plugins=[_environment(settings.nodes)],
    )
    if not many:
        with job.progress("", plan.settings.epochs, "images") as bar:
            return train(fabric, plan, bar, job.log, partial(_keep_picture, job.path("pictures")))
    with _forwarded_signals():
        # one object, because Fabric looks into arguments and refuses frozen dataclasses
        threads = max(1, job.threads // settings.devices)  # those of a node are shared by its processes
        keep_picture = partial(_keep_picture, job.path("pictures"))
        title = f"pretrain {job.spec.name}"
        work = partial(_train_rank, plan=plan, title=title, threads=threads, keep_picture=keep_picture, log_path=job.log_path)
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
    plan: Any,
    title: str,
    threads: int,
    keep_picture: Callable[[int, np.ndarray], None],
    log_path: Path | None = None,
) -> MedsslError | None:
    """One process's part; rank 0 shows the progress and writes the job's log."""
    import sys

    import torch

    from medssl.pretrain.loop import train

    torch.set_num_threads(threads)
    first = fabric.is_global_zero
    if not first:
        sys.stderr = open("/dev/null", "w")  # noqa: SIM115  (for the life of this process)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(log_path, "a", encoding="utf-8")) if first and log_path is not None else None
        bar = stack.enter_context(progress(title, 1, "images", log=log))
        return train(fabric, plan, bar, lambda line: print(line, file=log or sys.stderr, flush=True), keep_picture)


@contextlib.contextmanager
def _forwarded_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR1 go on to the processes of this job, which save and end."""

    def forward(number: int, _: Any) -> None:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _device(settings: PretrainOptions) -> str:
    """`cpu`, or the name of the first CUDA device.

    Raises:
        StudyError: the study asks for a device that is not there, or for a precision that the CPU does not have.
    """
    import torch

    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        if settings.precision == "fp16":
            raise StudyError(
                "pretrain.precision is fp16, which needs a GPU, and this run is on the CPU. Set precision: bf16 or fp32."
            )
        return "cpu"
    if not torch.cuda.is_available() or torch.cuda.device_count() < settings.devices:
        raise StudyError(
            f"pretrain.device is {settings.device!r} with {settings.devices} device(s), and {torch.cuda.device_count()} CUDA "
            "devices are here. Set device: cpu or fewer devices, or run where the GPUs are."
        )
    return f"cuda ({torch.cuda.get_device_name(0)})"


def _write_views(plan: Any, target: Path) -> None:
    """The first samples of the run's first batch as the objective will see them: a column each, a row for every view."""
    from medssl.nn.views import Views
    from medssl.pretrain.picture import grid

    objective, settings, count = plan.objective(), plan.settings, len(plan.samples)
    # a batch of the run's own size, for another might not be dealt; where there are too few samples, the loop says so
    unit = settings.devices * settings.nodes * settings.accumulate * objective.together
    rows = objective.batches(plan.seed, 0, min(settings.batch_size, count - count % unit) or count)[0]
    batch = plan.reader()[(0, rows[:PICTURED])]
    batch.keys = objective.view_keys(batch)
    _write_png(target, grid(Views(plan.settings.views, objective.crops(plan.size), plan.samples, seed=plan.seed)(batch)))


def _keep_picture(folder: Path, epoch: int, pixels: np.ndarray) -> None:
    """What an objective drew at the end of an epoch."""
    _write_png(folder / f"epoch-{epoch + 1:05d}.png", pixels)


def _write_png(target: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with writing(target) as temporary:
        Image.fromarray(np.asarray(pixels)).save(temporary, format="PNG")


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise StudyError(f"pretrain.init_weights names {path}, which does not exist. Correct the path, or leave it out.")
    return Path(path)
