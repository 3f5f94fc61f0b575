"""Pre-training speed: views compared with per-sample pipelines, steps of every objective with lightly's, scaling, the GPU.

All sides work on the same slices in one run and take turns. A full step is load, views, forward, backward, finite check,
optimiser and what the objective moves; the step alone is the same on ready views, and stands beside the plain loop of
`plain_loops.py`: the same backbone, batch, size and precision, heads of the same widths. Ratios are of the least seconds.
lightly has neither DeepCluster-v2 nor G-SimCLR. On a CPU bf16 is measured for two objectives (it is slow without AMX) and
ResNet-50 with half the batch; the deterministic kernels of a GPU are left off in steps, where they would hold up both sides, and
on in the real loop.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from noted_waits import waiting
from plain_loops import LOOPS, NO_COUNTERPART, plain_step
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from view_pipelines import view_rates

from medssl.artefacts.volumes import Volume
from medssl.core.files import write_json
from medssl.core.progress import Bar
from medssl.core.rng import ids_to_keys
from medssl.nn.backbone import build
from medssl.nn.loading import Batch, Samples
from medssl.nn.state import StateFolder
from medssl.nn.stepping import one_device
from medssl.pretrain.learner import Learner
from medssl.pretrain.loop import Loop
from medssl.pretrain.options import TrainingOptions
from medssl.pretrain.plan import Plan
from medssl.pretrain.run import _train_rank

RESULTS = Path(__file__).parent / "results"
OBJECTIVES = (*LOOPS, *NO_COUNTERPART)
BF16_ON_CPU = ("simclr", "moco")
DENSE_BF16_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Operations a second, the maker's figures."""
WARM_STEPS = 5
"""Steps of the real loop that are not counted: kernels are chosen, or compiled."""


def main() -> None:
    """Command line."""
    quick, device, threads = asked(__doc__)
    missing = peers.find()
    size = 64 if quick and device == "cpu" else 224
    batches = {"resnet18": 8 if quick else 16, "resnet50": 8} if device == "cpu" else {"resnet18": 256, "resnet50": 128}
    with tempfile.TemporaryDirectory() as folder:
        samples = made_samples(Path(folder), 32 if quick else 64)
        views = view_rates(samples, device, missing, batch_size=16 if quick else 64, repeats=2 if quick else 4)
        steps: dict[str, Any] = {}
        for backbone in ["resnet18"] if quick else ["resnet18", "resnet50"]:
            for precision in ["fp32"] if quick else ["fp32", "bf16"]:
                few = precision == "bf16" and device == "cpu"
                steps.setdefault(backbone, {})[precision] = {
                    name: step_rates(
                        samples, name, backbone, size, batches[backbone], precision, device,
                        with_plain=name in LOOPS and "lightly" not in missing, repeats=1 if quick else 2 if few else 3,
                    )
                    for name in (BF16_ON_CPU if few else OBJECTIVES)
                }  # fmt: skip
        batch = batches["resnet18"]
        grown = {} if quick else {"half": batch // 2, "whole": batch, "double": batch * 2}
        worlds = (1, 2, 4) if device == "cpu" else tuple(n for n in (1, 2, 4, 8) if n <= torch.cuda.device_count())
        found = {
            "views_512_to_224": views,
            "steps": steps,
            "no_counterpart_in_lightly": list(NO_COUNTERPART),
            "peers_left_out": missing,
            "growth_with_batch_images_per_s": {
                name: step_rates(samples, "simclr", "resnet18", size, b, "fp32", device, with_plain=False)["images_per_s"]
                for name, b in grown.items()
            },
            "real_loop": real_loops(samples, size, batches, device, quick=quick),
            "growth_with_processes_images_per_s": {
                str(n): process_rate(samples, n, size, 16 if quick else 32, Path(folder), device)
                for n in (worlds[:2] if quick else worlds)
            },
        }
    found |= {"size": size, "batch": batches, "device": device_name(device), "threads": threads}
    found |= {"versions": versions(missing), "date": datetime.now(UTC).date().isoformat()}
    if not quick:
        write_json(RESULTS / "pretrain.json", found)
    print("RESULT " + json.dumps(found))


def asked(description: str | None) -> tuple[bool, str, int]:
    """Whether `--quick` is given, the device, and the number of threads, which torch uses from now on."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="at most a minute; results are not kept")
    quick = bool(parser.parse_args().quick)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1) if device == "cpu" else 8))
    torch.set_num_threads(threads)
    return quick, device, threads


def made_samples(folder: Path, count: int) -> Samples:
    """`count` slices of 512² with the noise and edges of CT, in one array of the cache's form."""
    random = np.random.default_rng(0)
    i, j = np.meshgrid(np.linspace(-1, 1, 512), np.linspace(-1, 1, 512), indexing="ij")
    planes = []
    for _ in range(count):
        plane = np.where((i / 0.9) ** 2 + (j / 0.7) ** 2 < 1, 40.0, -1000.0)
        for _ in range(8):
            x, y, r = random.uniform(-0.6, 0.6), random.uniform(-0.5, 0.5), random.uniform(0.05, 0.3)
            plane[(i - x) ** 2 + (j - y) ** 2 < r**2] = random.uniform(-900, 900)
        planes.append((plane + random.normal(0, 25, plane.shape)).astype(np.int16))
    np.save(folder / "array.npy", np.asfortranarray(np.stack(planes, 2)))
    volume = Volume(
        volume_id="v-000000000000", series_id=None, subject_id=None, unit="patient", kind="volume", modality="CT", split="train",
        array=folder / "array.npy", mask=None, shape=(512, 512, count), spacing_mm=None, affine=None, slope=1.0, intercept=0.0,
        low=(-1000.0,), high=(1000.0,),
    )  # fmt: skip
    ids, index = [f"v-000000000000-{k:04d}" for k in range(count)], np.arange(count)
    zeros = np.zeros(count, dtype=np.int64)
    return Samples(
        tuple(ids), (volume,), zeros, zeros + 2, index, index.astype(np.float32), (None,) * count, ids_to_keys(ids)
    )  # fmt: skip


class ByHand(Learner):
    """Steps made one by one, on ready views where there are some."""

    ready: list[Tensor] | None = None
    step = 500
    """in the middle of the run"""

    def make_views(self, batch: Batch) -> list[Tensor]:
        return super().make_views(batch) if self.ready is None else self.ready

    def learn(self, batch: Batch) -> None:
        """What the loop does with a batch."""
        self.set_schedule(self.step, 1000)
        self.objective.before_step(0.5, self.step)
        loss, outputs = self.forward_backward(batch, self.step)
        self.objective.after_backward(self.step)
        figures = self.stepper.figures(loss.value)
        self.judge(*figures.tolist(), batch, self.step)
        self.stepper.update(figures[1])
        with torch.no_grad():
            self.objective.after_step(outputs, batch, 0.5)
            self.update_ema()
        self.step += 1


def fabric_of(plan: Plan, device: str) -> Fabric:
    """One process in the plan's arithmetic."""
    return one_device(torch.device(device), plan.options.precision)


def step_rates(
    samples: Samples, objective: str, backbone: str, size: int, batch_size: int, precision: str, device: str, *,
    with_plain: bool, repeats: int = 2,
) -> dict[str, float]:  # fmt: skip
    """Images per second of the full step, of the step alone and of the plain loop, which take turns.

    The first turn warms up and counts the floating-point operations of both sides, which should be as many.
    """
    options = TrainingOptions(
        objective=objective, backbone=backbone, size=[size], batch_size=batch_size, precision=precision, device=device,
        deterministic=False,
    )  # type: ignore[arg-type]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(options, 0, repeated(samples, batch_size), Path(folder))
        run, reader = ByHand(fabric_of(plan, device), plan), plan.reader()
        batch = reader[(0, np.arange(batch_size))].to(run.device)
        views = run.make_views(batch)
        if run.objective.memory_pass:  # as full as after that pass
            remembered = run.objective.clusters
            remembered.memory.copy_(torch.nn.functional.normalize(torch.randn_like(remembered.memory), dim=-1))
            remembered.known.fill_(True)
            run.objective.start_epoch(0, 0)
        plain = plain_step(objective, build(backbone, {}, 2, 1), views, precision) if with_plain else None

        def load() -> None:
            run.ready = run.make_views(reader[(0, np.arange(batch_size))].to(run.device))

        with FlopCounterMode(display=False) as counted:
            run.ready = views
            run.learn(batch)
        flops = {"medssl": counted.get_total_flops()}
        if plain:
            with FlopCounterMode(display=False) as counted:
                plain()
            flops["plain"] = counted.get_total_flops()
        loading, alone, theirs = math.inf, math.inf, math.inf
        for _ in range(repeats):
            run.ready = None
            loading = min(loading, seconds(load, device))
            alone = min(alone, seconds(lambda: run.learn(batch), device))
            theirs = min(theirs, seconds(plain, device)) if plain else theirs
    found = {
        "images_per_s": batch_size / (loading + alone),
        "load_and_views_frac": loading / (loading + alone),
        "step_alone_images_per_s": batch_size / alone,
    }
    if plain:
        found |= {
            "plain_images_per_s": batch_size / theirs,
            "ratio_step_alone": theirs / alone,
            "flops_over_plain": flops["medssl"] / flops["plain"],
        }
    return {name: round(value, 3) for name, value in found.items()}


def repeated(samples: Samples, count: int) -> Samples:
    """At least `count` samples: the same again where there are fewer."""
    return samples.rows(np.arange(max(count, len(samples))) % len(samples))


def process_rate(samples: Samples, world: int, size: int, batch: int, folder: Path, device: str) -> float:
    """Images per second of SimCLR in `world` processes of one thread (or one GPU each), the whole batch being `batch`."""
    options = TrainingOptions(
        backbone="resnet18", size=[size], batch_size=batch, epochs=3, device="cpu" if device == "cpu" else "cuda",
        devices=world, checkpoint_every_s=1e6,
    )  # type: ignore[arg-type]  # fmt: skip
    plan = Plan(options, 0, samples, folder / f"state-{world}")
    strategy: Any = DDPStrategy(broadcast_buffers=False, start_method="spawn") if world > 1 else "auto"
    fabric = Fabric(accelerator=device, devices=world, strategy=strategy, plugins=[LightningEnvironment()])
    work = partial(_train_rank, plan=plan, title="", threads=1, keep_picture=_no_picture)
    error = fabric.launch(work) if world > 1 else work(fabric)
    if error is not None:
        raise error
    loaded = StateFolder(plan.state).load()
    assert loaded is not None
    return round(max(row["images_per_s"] for row in loaded[2]["rows"][1:]), 2)


def _no_picture(epoch: int, pixels: np.ndarray) -> None:
    """Pictures are not what is timed."""


def real_loops(samples: Samples, size: int, batches: dict[str, int], device: str, *, quick: bool) -> dict[str, Any]:
    """The real loop by backbone and way (eager, compiled), bf16; on a CPU only SimCLR with ResNet-18, eager and fp32.

    G-SimCLR is left out: its steps are SimCLR's, and its denoiser would be most of the time.
    """
    if device == "cpu":
        return {"resnet18": {"simclr eager": real_loop(samples, "simclr", "resnet18", size, batches["resnet18"], device)}}
    found: dict[str, Any] = {}
    for backbone in ["resnet18"] if quick else ["resnet18", "resnet50"]:
        rates = found.setdefault(backbone, {})
        for name in ("simclr",) if quick else [n for n in OBJECTIVES if n != "gsimclr"]:
            rates[f"{name} eager"] = real_loop(samples, name, backbone, size, batches[backbone], device)
        rates["simclr compiled"] = real_loop(samples, "simclr", backbone, size, batches[backbone], device, compiled=True)
        rates["compiled_over_eager"] = round(rates["simclr compiled"]["images_per_s"] / rates["simclr eager"]["images_per_s"], 2)
    return found


def real_loop(
    samples: Samples, objective: str, backbone: str, size: int, batch_size: int, device: str, *, compiled: bool = False
) -> dict[str, float]:
    """Images per second of a run and the share of its time that passes waiting for the next batch.

    Files come from the system's cache; the wait is that of the process, so the GPU may still have work meanwhile. On a GPU also
    the peak of its memory and the share of its dense bf16 operations that the model uses.
    """
    cuda = device == "cuda"
    steps = WARM_STEPS + (40 if cuda else 3)
    options = TrainingOptions(
        objective=objective, backbone=backbone, size=[size], batch_size=batch_size, precision="bf16" if cuda else "fp32",
        device=device, max_steps=steps, workers=8 if cuda else 0, compile=compiled, checkpoint_every_s=1e6,
    )  # type: ignore[arg-type]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, waiting() as (waits, at):
        plan = Plan(options, 0, repeated(samples, 8 * batch_size), Path(folder))
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        Loop(fabric_of(plan, device), plan, Bar("", 1, "images", None, None), lambda line: None, lambda: False).run()
        peak_mb = torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0
        spent_s = at[-1] - at[WARM_STEPS - 1]
        rate = (len(at) - WARM_STEPS) * batch_size / spent_s
        found = {"images_per_s": rate, "waiting_frac": sum(waits[WARM_STEPS:]) / spent_s}
        if cuda:
            found["peak_mb"] = peak_mb
            peak = next((flops for name, flops in DENSE_BF16_FLOPS.items() if name in device_name(device)), None)
            if peak is not None and not compiled:
                found["model_flop_utilisation"] = flops_of_step(plan, device, batch_size) * rate / batch_size / peak
    return {name: round(value, 4) for name, value in found.items()}


def flops_of_step(plan: Plan, device: str, batch_size: int) -> float:
    """Floating-point operations of a step, counted by torch."""
    run = ByHand(fabric_of(plan, device), plan)
    with FlopCounterMode(display=False) as counted:
        run.learn(plan.reader()[(0, np.arange(batch_size))].to(run.device))
    return float(counted.get_total_flops())


def seconds(work: Callable[[], Any], device: str) -> float:
    """The seconds of one try, to the end of what it gave the GPU to do."""
    start_s = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start_s


def versions(missing: list[str]) -> dict[str, str]:
    """What the numbers depend on."""
    return {name: version(name) for name in ("medssl", "torch", "monai", *peers.NAMES) if name not in missing}


def device_name(device: str) -> str:
    """The GPU, or the processor."""
    if device == "cuda":
        return torch.cuda.get_device_name(0)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
